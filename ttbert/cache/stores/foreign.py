"""A store at an fsspec URL (memory://, sftp://, ...), with the weaker promises that fsspec can make.

fsspec's "create" is a look followed by a write on most of its file systems, so two writers of one key may both believe
they won. With names made of content they then wrote the same bytes, and readers check digests; what can suffer is a ref
entry written by two machines at once.

Each of these file systems raises what its own package does, such as the errors of a client for HTTP. Whatever that is, it is
told as every store tells it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import fsspec

from ...errors import InputError, StoreReadOnly, StoreUnavailable, TtbertError
from ...text import error_text
from .store import Capabilities, Entry, Store, check_key, is_key, quarantine_key

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
"""What they raise for a key that names nothing: the last one where a part of it is an object."""
_UNUSABLE = (ValueError, ImportError, TypeError, AttributeError, NotImplementedError)
"""What fsspec's file systems raise for an address that they cannot make sense of."""

_NOT_FOR_WRITING = (NotImplementedError, ValueError)
"""What those raise that are only for reading, such as zip."""
_WEB = ("http", "https")
"""Of pages a listing is whatever they link to, and of no size."""


class FsspecStore(Store):
    """Objects below an fsspec URL."""

    capabilities = Capabilities(creates_atomically=False, survives_crash=False)

    def __init__(self, url: str) -> None:
        """InputError for a URL that cannot be a cache, StoreUnavailable where there is no connection."""
        if url.partition("://")[0] in _WEB:
            raise InputError(
                f"{url} cannot be a cache: a web server does not tell what it holds",
                "give a folder, such as a mounted share, or s3://BUCKET/PREFIX with the server in AWS_ENDPOINT_URL",
            )
        self.url = url
        try:
            # No listing cache: another machine's write is seen at once.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except _UNUSABLE as error:
            raise InputError(
                f"{url} cannot be opened as a cache: {error_text(error)}",
                "give a folder, or an fsspec URL whose package is installed",
            ) from error
        except Exception as error:
            raise self._explain(error) from error
        self._root = root.rstrip("/")

    def put(self, key: str, content: bytes | memoryview) -> bool:
        path = self._path(key)
        if self.head(key) is not None:
            return False
        with self._explained(writing=True):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, bytes(content))
        return True

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        with self._explained(key):
            return cast(BinaryIO, _Stream(self._fs.open(path, "rb"), self._explain))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        path, end = self._path(key), None if length is None else start + length
        with self._explained(key):
            return bytes(self._fs.cat_file(path, start=start, end=end))

    def head(self, key: str) -> Entry | None:
        path = self._path(key)
        try:
            with self._explained(key):
                found = self._fs.info(path)
        except KeyError:
            return None
        return self._entry(key, found) if found["type"] == "file" else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = self._path(prefix) if prefix else self._root
        with self._explained():
            found = {path[len(self._root) :].lstrip("/"): each for path, each in self._walk(folder)}
        for key in sorted(found):
            if key != prefix and is_key(key):
                yield self._entry(key, found[key])

    def delete(self, key: str) -> bool:
        path = self._path(key)
        try:
            with self._explained(key, writing=True):
                self._fs.rm_file(path)
        except KeyError:
            return False
        return True

    def quarantine(self, key: str) -> str:
        moved = quarantine_key(key)
        self.put(moved, self.get(key))
        self.delete(key)
        return moved

    def touch(self, key: str) -> None:
        """Ages cannot be restarted here."""

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _walk(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The files below a folder, by their paths; none where it is not there."""
        # Folder by folder: for fsspec's own recursion one that cannot be reached is an empty one.
        try:
            for _, folders, files in self._fs.walk(folder, maxdepth=1, detail=True, on_error="raise"):
                for each in files.values():
                    yield each["name"], each
                for each in folders.values():
                    yield from self._walk(each["name"].rstrip("/"))
        except _ABSENT:
            return

    def _entry(self, key: str, found: dict[str, Any]) -> Entry:
        if found.get("size") is None:
            raise StoreUnavailable(f"{self.url} does not tell the size of {key}", "it cannot be a cache; choose another place")
        # Of what tells no age, pruning must not think that it is old.
        modified = found.get("mtime") or found.get("LastModified") or found.get("created") or time.time()
        return Entry(key, int(found["size"]), modified.timestamp() if hasattr(modified, "timestamp") else float(modified))

    @contextmanager
    def _explained(self, key: str | None = None, writing: bool = False) -> Iterator[None]:
        """Whatever their file system raises, as a store's error; KeyError where that is that it has no object `key`."""
        try:
            yield
        except Exception as error:
            if key is not None and isinstance(error, _ABSENT):
                raise KeyError(key) from None
            raise self._explain(error, writing) from error

    def _explain(self, error: Exception, writing: bool = False) -> TtbertError:
        if writing and isinstance(error, _NOT_FOR_WRITING):
            return StoreReadOnly(f"{self.url} cannot be written to", "choose another place with --cache or TTBERT_CACHE")
        if isinstance(error, PermissionError):
            return StoreReadOnly(f"{self.url}: {error}", "check the credentials and their rights")
        return StoreUnavailable(f"{self.url}: {error_text(error)}", "check the address and the network, then try again")


class _Stream(io.RawIOBase):
    """A file of theirs, whose errors are ours."""

    def __init__(self, file: BinaryIO, explain: Callable[[Exception], TtbertError]) -> None:
        self._file, self._explain = file, explain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except Exception as error:
            raise self._explain(error) from error

    def close(self) -> None:
        self._file.close()
        super().close()
