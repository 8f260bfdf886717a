"""Where the files of a checkpoint come from: a local folder here, a model on the Hugging Face hub in `hub`.

A file is identified by its content. The hub's metadata gives the SHA-256 of every large file without a download, so a
model that is converted already is recognised by one request. What is downloaded goes to huggingface_hub's own cache and
is checked against that metadata before anybody sees its path.

What is in the files is not the concern of this module.
"""

from __future__ import annotations

import hashlib
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import MappingProxyType

from ..cache.digest import Digest
from ..errors import CheckpointError, IntegrityError, TtbertError, UnreadableError
from ..frozen import Frozen
from ..paths import is_file, is_there
from ..text import some_text
from ..threads import Threads
from .digests import compute_sha256, recall_sha256
from .mapped import changed

_SAVED = "give a model saved by transformers' save_pretrained()"
_LARGEST_READ = 32 << 20
"""Bytes of a file that is read into memory whole: configurations and tokenizers of BERTs have 5 MB at most."""
_READABLE = "look at who owns it and whether you may read it"


class SourceFile(Frozen):
    """A file of a checkpoint, before anything of it is read."""

    name: str
    """With `/` between folders, relative to the checkpoint."""
    size: int
    sha256: Digest | None
    """What the hub says of large files; None for small ones and local ones, which have to be read."""


class Source(ABC):
    """The files of one checkpoint, at one revision."""

    is_partial = False
    """Some files of the checkpoint may be missing in `files`, since only what is in a local cache was looked at."""

    def __init__(self, label: str, commit: str | None, files: Iterable[SourceFile]) -> None:
        self.label = label
        self.commit = commit
        self.files: Mapping[str, SourceFile] = MappingProxyType({file.name: file for file in files})
        self._paths: dict[str, Path] = {}
        self._stats: dict[Path, tuple[int, int, int]] = {}
        self._digests: dict[str, Digest | None] = {}
        self._computed: dict[str, Future[Digest]] = {}

    @property
    def listing(self) -> str:
        """Which files there are, as an error says it where others are missing."""
        return f"there are: {some_text(sorted(self.files))}" if self.files else "there are no files at all"

    @abstractmethod
    def _locate(self, name: str) -> Path:
        """A local file with the content, downloaded if need be."""

    def _expected(self, name: str) -> str | None:
        """The content's SHA-256 or git's name of it, in hex, if somebody vouches for one."""
        return None

    def path(self, name: str) -> Path:
        """The file on the local disk, downloaded and checked where that is necessary.

        Raises CheckpointError if the checkpoint has no such file, NotCached, StoreUnavailable, NoSpaceError or
        StoreReadOnly if it could not be fetched, and IntegrityError if its content is not what the hub says.
        """
        if name not in self._paths:
            if name not in self.files:
                raise self._missing(name)
            path = self._locate(name)
            self._remember(path)
            expected = self._expected(name)
            if expected is not None:
                self._verify(name, path, expected)
            self._paths[name] = path
        return self._paths[name]

    def read(self, name: str) -> bytes:
        """The content of a small file; raises what `path` does, and CheckpointError if it cannot be read or is not small."""
        if name in self.files and (size := self.files[name].size) > _LARGEST_READ:
            raise CheckpointError(f"{name} of {self.label} has {size:,} bytes: that is no {name}", _SAVED)
        path = self.path(name)
        with _reading(path):
            return path.read_bytes()

    def digest(self, name: str) -> Digest:
        """The SHA-256 of the file's content: what the hub says if it does, else by reading the file, once."""
        known = self.known_digest(name)
        if known is None:
            path = self.path(name)
            with _reading(path):
                computed = self._computed.get(name)
                known = self._digests[name] = computed.result() if computed else compute_sha256(path)
        return known

    @contextmanager
    def hashing(self, names: Iterable[str]) -> Iterator[None]:
        """Inside of `with`, files are hashed by threads of their own, one after another, and `digest` waits for them."""
        stop = Event()
        with Threads(1) as thread:
            try:
                self._computed = {name: thread.submit(compute_sha256, self.path(name), stop) for name in names}
                yield
            finally:
                self._computed = {}
                stop.set()
                thread.shutdown(cancel_futures=True)

    def known_digest(self, name: str) -> Digest | None:
        """As `digest`, where that takes no long reading; None for a large local file that was not met before."""
        file = self.files.get(name)
        if file is not None and file.sha256 is not None:
            return file.sha256
        path = self.path(name)
        if name not in self._digests:
            with _reading(path):
                self._digests[name] = recall_sha256(path)
        return self._digests[name]

    def check_unchanged(self) -> None:
        """Raise UnreadableError if a file whose path or digest was given out has changed since then."""
        for path, before in self._stats.items():
            if _stat(path) != before:
                raise changed(path)

    def _missing(self, name: str) -> TtbertError:
        return CheckpointError(f"{self.label} has no file {name!r}; {self.listing}", _SAVED)

    def _remember(self, path: Path) -> None:
        found = _stat(path)
        if found is None:
            where = f", a link to {path.readlink()}, which" if path.is_symlink() else ""
            raise UnreadableError(f"{path}{where} cannot be read or is not there any more", _READABLE)
        self._stats[path] = found

    def _verify(self, name: str, path: Path, expected: str) -> None:
        with _reading(path):
            if len(expected) == 64:
                digest = self._digests[name] = recall_sha256(path) or compute_sha256(path)
                found = digest.hex
            else:
                found = _git_name(path)
        if found != expected:
            self._digests.pop(name, None)
            kind = "sha256" if len(expected) == 64 else "git blob"
            raise IntegrityError(
                f"{name} of {self.label} is damaged: expected {kind} {expected}, found {found}",
                f"delete {path.resolve()} and try again",
            )


class FolderSource(Source):
    """A checkpoint in a local folder: the files directly in it. It is called by its path, unless it has a `label`."""

    def __init__(self, folder: Path, label: str | None = None) -> None:
        self._folder = folder.resolve()
        try:
            entries = sorted(self._folder.iterdir())
        except OSError as error:
            raise UnreadableError(f"the folder {folder} cannot be read: {error.strerror}", _READABLE) from error
        # A broken link is listed too: passing over it would silently choose another file of weights.
        found = [entry for entry in entries if is_file(entry) or (entry.is_symlink() and not is_there(entry))]
        super().__init__(label or str(self._folder), None, [SourceFile(entry.name, size_of(entry), None) for entry in found])

    def _locate(self, name: str) -> Path:
        return self._folder / name


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def size_of(path: Path) -> int:
    found = _stat(path)
    return 0 if found is None else found[1]


def _git_name(path: Path) -> str:
    """Git's name of a file's content. Only small files are kept in git itself, so it is read at once."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}", _READABLE) from error
