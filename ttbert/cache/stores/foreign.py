"""A store at any other fsspec URL (memory://, sftp://, ...), with the weaker promises that fsspec can make.

fsspec's "create" is a look followed by a write on most of its file systems, so two writers of one key may both believe
they won. With names made of content they then wrote the same bytes, and readers check digests; what can suffer is a ref
entry written by two machines at once.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import fsspec

from ...errors import InputError, StoreReadOnly, StoreUnavailable, TtbertError
from .store import Capabilities, Entry, Store, check_key, is_key

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
"""What they raise for a key that names nothing: the last one where a part of it is an object."""
_UNUSABLE = (ValueError, ImportError, TypeError, AttributeError, NotImplementedError)
"""What fsspec's file systems raise for an address that they cannot make sense of."""

_NOT_FOR_WRITING = (NotImplementedError, ValueError)
"""What those raise that are only for reading, such as http and zip."""


class FsspecStore(Store):
    """Objects below an fsspec URL."""

    capabilities = Capabilities(creates_atomically=False, survives_crash=False)

    def __init__(self, url: str) -> None:
        try:
            # No listing cache: another machine's write is seen at once.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except _UNUSABLE as error:
            raise InputError(
                f"{url} cannot be opened as a cache: {str(error).partition(chr(10))[0]}",
                "give a folder, or an fsspec URL whose package is installed",
            ) from error
        except OSError as error:
            self.url = url
            raise self._explain(error) from error
        self._root = root.rstrip("/")
        self.url = url

    def put(self, key: str, content: bytes | memoryview) -> bool:
        path = self._path(key)
        if self.head(key) is not None:
            return False
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, bytes(content))
        except (OSError, *_NOT_FOR_WRITING) as error:
            raise self._explain(error) from error
        return True

    def open(self, key: str) -> BinaryIO:
        try:
            return cast(BinaryIO, _Stream(self._fs.open(self._path(key), "rb"), self._explain))
        except _ABSENT:
            raise KeyError(key) from None
        except OSError as error:
            raise self._explain(error) from error

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            end = None if length is None else start + length
            return bytes(self._fs.cat_file(self._path(key), start=start, end=end))
        except _ABSENT:
            raise KeyError(key) from None
        except OSError as error:
            raise self._explain(error) from error

    def head(self, key: str) -> Entry | None:
        try:
            found = self._fs.info(self._path(key))
        except _ABSENT:
            return None
        except OSError as error:
            raise self._explain(error) from error
        return _entry(key, found) if found["type"] == "file" else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = self._path(prefix) if prefix else self._root
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(folder, detail=True)
        except _ABSENT:
            return
        except OSError as error:
            raise self._explain(error) from error
        for path in sorted(found):
            key = path[len(self._root) :].lstrip("/")
            if key != prefix and is_key(key):
                yield _entry(key, found[path])

    def delete(self, key: str) -> bool:
        path = self._path(key)
        try:
            self._fs.rm_file(path)
        except _ABSENT:
            return False
        except (OSError, *_NOT_FOR_WRITING) as error:
            raise self._explain(error) from error
        return True

    def quarantine(self, key: str) -> str:
        moved = f"quarantine/{key.replace('/', '_')}@{time.time_ns()}"
        self.put(moved, self.get(key))
        self.delete(key)
        return moved

    def touch(self, key: str) -> None:
        """Ages cannot be restarted here."""

    def debris(self) -> Iterator[Entry]:
        return iter(())  # what is half written is the server's to hide and to remove

    def remove_debris(self, entry: Entry) -> bool:
        raise ValueError(f"not a temporary file: {entry.key!r:.100}")

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _explain(self, error: Exception) -> TtbertError:
        if isinstance(error, _NOT_FOR_WRITING):
            return StoreReadOnly(f"{self.url} cannot be written to", "choose another place with --cache or TTBERT_CACHE")
        if isinstance(error, PermissionError):
            return StoreReadOnly(f"{self.url}: {error}", "check the credentials and their rights")
        return StoreUnavailable(f"{self.url}: {error}", "check the address and the network, then try again")


class _Stream(io.RawIOBase):
    """A file of theirs, whose errors are ours."""

    def __init__(self, file: BinaryIO, explain: Callable[[Exception], TtbertError]) -> None:
        self._file, self._explain = file, explain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            return self._file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except OSError as error:
            raise self._explain(error) from error

    def close(self) -> None:
        self._file.close()
        super().close()


def _entry(key: str, found: dict[str, Any]) -> Entry:
    # Of what tells no age, pruning must not think that it is old.
    modified = found.get("mtime") or found.get("LastModified") or found.get("created") or time.time()
    return Entry(key, int(found["size"]), modified.timestamp() if hasattr(modified, "timestamp") else float(modified))
