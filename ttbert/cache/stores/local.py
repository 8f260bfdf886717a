"""A store in a folder: a local disk, or a mounted share.

To publish: a unique temporary file in the target's own folder, write, fsync, link to the final name, fsync the
folder. The link has exactly one winner, on NFS too, and a writer killed at any point leaves a file that no reader
looks at. A `Draft` leaves it to its writer when to fsync.

Who may use what is decided by the folder of the store alone: what is made in it gets that folder's mode, whatever the
umask of who makes it. So a folder with mode 2775 is shared by its group, and one with 0700 with nobody. What was made by
others is never changed.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import itertools
import os
import pwd
import shlex
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ...errors import FULL, CacheError, InputError, NoSpaceError, StoreReadOnly, StoreUnavailable, TtbertError
from ...paths import is_folder
from ...threads import processors
from .mounts import find_mount, nearest_existing
from .store import Capabilities, Entry, R, Store, T, check_key, is_key, is_temporary, quarantine_key

_FORBIDDEN = {errno.EACCES, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_LOST = "lost+found"
"""What file systems have at the top of a disk, for root alone."""
_TRIES = 100
_SHARED = 0o2775
"""The mode of a folder shared with a group: what is made in it belongs to the group, too."""


class LocalStore(Store):
    """Objects as files below `root`, which is made by the first write."""

    chosen_with = "--cache or TTBERT_CACHE"
    """How the user chooses the folder, for hints."""

    def __init__(self, root: Path, group: str | None = None) -> None:
        """With a `group`, the folder is shared with it from the moment it is made; see `open_folder`."""
        self.root = root
        self.url = str(root)
        self._group = group

    @property
    def streams(self) -> int:  # type: ignore[override]
        # From a disk one more than work at once, so that somebody waits for it all the time. Too many hold each other up.
        return 4 if self.capabilities.seen_within else min(6, processors() + 1)

    @cached_property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        seen = find_mount(self.root).seen_within
        return Capabilities(creates_atomically=True, survives_crash=True, seen_within=seen, done_within=2.0 + seen)

    def put(self, key: str, content: bytes | memoryview) -> bool:
        path = self._path(key)
        try:
            if path.exists():
                return False
        except OSError as error:
            raise self.explain(error, path, len(content)) from error
        try:
            with self.draft(key, len(content)) as draft:
                draft.write(content)
                return draft.publish()
        except NoSpaceError:
            self._remove_empty(path)
            raise

    def draft(self, key: str, size: int) -> Draft:
        """A file on its way to being the object `key` of that size; its writer closes it. Errors as of `put`."""
        path = self._path(key)
        try:
            for _ in range(_TRIES):
                try:
                    self._make_folder(path.parent)
                    return Draft(self, path, size)
                except FileNotFoundError as error:
                    lost = error  # somebody deleted the last object of the folder, and the folder, just now
            raise lost
        except OSError as error:
            raise self.explain(error, path, size) from error

    def sync(self, key: str) -> None:
        """Have the disk keep an object that was published as one that need not last; nothing where it is gone."""
        path = self._path(key)
        with contextlib.suppress(KeyError), self.open(key) as file:
            try:
                os.fsync(file.fileno())
                _sync_name(path)
            except OSError as error:
                raise self.explain(error, path) from error

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            # What is no file must not be waited for, as for a writer of a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except _NOT_THERE:
            raise KeyError(key) from None
        except OSError as error:
            raise self.explain(error, path) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise KeyError(key)
        return os.fdopen(descriptor, "rb", buffering=0)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self.open(key) as file:
            try:
                file.seek(start)
                wanted = max(0, os.fstat(file.fileno()).st_size - start) if length is None else length
                content = bytearray()
                while len(content) < wanted and (part := file.read(wanted - len(content))):
                    content += part
                return bytes(content)
            except OSError as error:
                raise self.explain(error, self._path(key)) from error

    def head(self, key: str) -> Entry | None:
        return self._entry(key, self._path(key))

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        # A disk of this machine answers before a thread has started.
        return super().map(function, items) if self.capabilities.seen_within else map(function, items)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if prefix:
            check_key(prefix)
        return self._walk(prefix, is_key)

    def delete(self, key: str) -> bool:
        path = self._path(key)
        if not self._unlink(path):
            return False
        self._remove_empty(path)
        return True

    def quarantine(self, key: str) -> str:
        moved = quarantine_key(key)
        source, target = self._path(key), self._path(moved)
        if self.head(key) is None:
            raise KeyError(key)
        try:
            self._make_folder(target.parent)
            source.rename(target)
        except FileNotFoundError:
            raise KeyError(key) from None
        except OSError as error:
            raise self.explain(error, source) from error
        return moved

    def touch(self, key: str) -> None:
        # Only the owner may restart a file's age at will. A file of somebody else's keeps its own, and convert makes
        # sure at its end that everything is still there.
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def free(self) -> int | None:
        place = nearest_existing(self.root)
        try:
            is_read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            return None if is_read_only else shutil.disk_usage(place).free  # where nothing can be written, room means nothing
        except OSError:
            return None

    def debris(self) -> Iterator[Entry]:
        return self._walk("", is_temporary)

    def remove_debris(self, entry: Entry) -> bool:
        if not is_temporary(entry.key):
            return super().remove_debris(entry)
        path = self.root / entry.key
        return self._entry(entry.key, path) == entry and self._unlink(path)

    def lock_file(self, name: str) -> Path:
        """An empty file that may stand for locks between those who use the store, made if that is possible; it stays."""
        path = self.root / ".locks" / name
        with contextlib.suppress(OSError):
            self._make_folder(path.parent)
            with path.open("xb") as file:
                self.share(file.fileno(), 0o666)
        return path

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _entry(self, key: str, path: Path) -> Entry | None:
        try:
            status = path.stat()
        except _NOT_THERE:
            return None
        except OSError as error:
            raise self.explain(error, path) from error
        return Entry(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def _unlink(self, path: Path) -> bool:
        try:
            path.unlink()
        except _NOT_THERE:
            return False
        except OSError as error:
            raise self.explain(error, path) from error
        return True

    def _remove_empty(self, path: Path) -> None:
        """Remove the folders around a file that is not there; one that stays would be untidy, not wrong."""
        with contextlib.suppress(OSError):  # the first one that is not empty
            for folder in itertools.takewhile(lambda each: each != self.root, path.parents):
                folder.rmdir()

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            try:
                each.mkdir()
            except FileExistsError:
                found = each.lstat().st_mode  # FileNotFoundError where it was removed just now: then `put` begins again
                if not (stat.S_ISDIR(found) or (stat.S_ISLNK(found) and each.is_dir())):
                    raise
                continue  # made by somebody else, and theirs
            with _open_folder(each, os.O_NOFOLLOW) as made:
                if each == self.root:
                    self._found(made)
                elif each.is_relative_to(self.root):
                    self.share(made, 0o3777)
            _sync_folder(each.parent)

    def _found(self, made: int) -> None:
        """Give the folder of the store, just made, to the group that it is to be shared with."""
        if self._group:
            os.fchown(made, -1, grp.getgrnam(self._group).gr_gid)
            os.fchmod(made, _SHARED)

    def share(self, made: int, bits: int) -> None:
        """Let those use a new file or folder, which is open, who may use the store.

        By its path it might be another one by now: who may write there, too, can put a link in its place.
        """
        mode = self.root.stat().st_mode & bits
        if stat.S_IMODE(os.fstat(made).st_mode) != mode:
            with contextlib.suppress(PermissionError):  # a file system that has no modes
                os.fchmod(made, mode)

    def _walk(self, prefix: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """Files below a folder by their keys, in the order of these; one that vanishes meanwhile is left out."""
        folder = f"{self.root}/{prefix}"  # a Path for each of thousands of folders takes as long as to look into it
        try:
            with os.scandir(folder) as scan:
                found = [(f"{each.name}/" if each.is_dir(follow_symlinks=False) else each.name, each) for each in scan]
        except _NOT_THERE:
            return
        except OSError as error:
            raise self.explain(error, Path(folder)) from error
        for name, item in sorted(found, key=itemgetter(0)):
            key = f"{prefix}/{item.name}" if prefix else item.name
            if name.endswith("/"):
                if is_key(key) and key != _LOST:  # others hold nothing of ours, and perhaps may not be looked into
                    yield from self._walk(key, wanted)
                continue
            if not wanted(key):
                continue
            try:
                status = item.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                if item.is_symlink():  # somebody's own, which leads nowhere for this user
                    continue
                raise self.explain(error, Path(item.path)) from error
            if stat.S_ISREG(status.st_mode):
                yield Entry(key, status.st_size, status.st_mtime)

    def explain(self, error: OSError, path: Path, needed: int = 0) -> TtbertError:
        """The error a user can act on, for one of the operating system."""
        if error.errno in FULL:
            return NoSpaceError(
                f"no space left in {self.url}: {_shortage(error, nearest_existing(path), needed)}",
                f"{how_to_free(self.url)}; or choose another folder with {self.chosen_with}",
            )
        if error.errno == errno.EROFS:
            return StoreReadOnly(
                f"{self.url} is on a read-only file system",
                f"have it mounted for writing, or choose another folder with {self.chosen_with}",
            )
        if error.errno in _FORBIDDEN:
            place = nearest_existing(path)
            return StoreReadOnly(
                f"{self.url}: {(error.strerror or 'not permitted').lower()}: {place} belongs to {_owner(place)}",
                f"choose a folder of your own with {self.chosen_with}, or ask its owner for access",
            )
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            return _not_a_folder(path)
        if error.errno == errno.ENOENT:
            return StoreUnavailable(
                f"{self.url}: what was to be {path.name} was deleted while it was being written",
                "try again; a `ttbert cache gc` with a --grace shorter than a write takes does that",
            )
        return StoreUnavailable(f"{self.url}: {error}", "look at the disk or the mount, then try again")


class Draft:
    """A temporary file beside the object that it is to be. Closed before it is published, it leaves nothing."""

    def __init__(self, store: LocalStore, path: Path, size: int) -> None:
        """FileNotFoundError where the folder is gone, and other errors of the operating system."""
        self._store, self._path, self._size = store, path, size
        self._temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        self._is_temporary, self._is_synced = True, False
        try:
            self._file = self._temporary.open("xb", buffering=0)
        except KeyboardInterrupt:  # which may come once the file is made
            self._remove()
            raise

    def write(self, content: bytes | memoryview) -> None:
        """Append some of the bytes. NoSpaceError, StoreReadOnly or StoreUnavailable, as all that this does may raise."""
        left = memoryview(content)
        with self._explained():
            while left:
                left = left[self._file.write(left[: 1 << 24]) :]

    def sync(self) -> None:
        """Have the disk keep all that was written, some time before `publish`, which then need not wait for that."""
        with self._explained():
            os.fsync(self._file.fileno())
        self._is_synced = True

    def publish(self, lasting: bool = True) -> bool:
        """Make the bytes the object; False if there is one already.

        One that is not `lasting` may be gone after a power cut, or damaged, until the store's `sync` of it is done.
        """
        with self._explained():
            self._store.share(self._file.fileno(), 0o666)
            if self._is_synced:
                os.utime(self._file.fileno())  # the age of an object begins when it is published
            elif lasting:
                os.fsync(self._file.fileno())
            if os.fstat(self._file.fileno()).st_size != self._size:
                raise OSError(errno.EIO, "the file is not as long as what was written to it", str(self._temporary))
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS and os.access(self._path.parent, os.W_OK):
                    raise StoreUnavailable(
                        f"{self._store.url} is on a file system without hard links, so nothing can be published there "
                        "exactly once",
                        f"choose a folder on a local disk or on NFS with {self._store.chosen_with}",
                    ) from error
                raise
            self._remove()
            if lasting:
                _sync_name(self._path)
            return True

    def close(self) -> None:
        try:
            self._file.close()
        finally:  # Ctrl-C may come once it is closed
            self._remove()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _remove(self) -> None:
        if self._is_temporary:
            self._temporary.unlink(missing_ok=True)
            self._is_temporary = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._store.explain(error, self._path, self._size) from error


def open_folder(folder: Path, group: str | None = None) -> LocalStore:
    """The store in a folder, which need not be there yet; CacheError where it cannot be made, since a file is in its place.

    With a `group`, a folder that is there must be shared with it already, and InputError says how that is done.
    """
    if group:
        _check_group(folder, group)
    for place in (folder, *folder.parents):
        try:
            if place.is_dir():
                break
        except OSError:  # below a folder that may not be looked into; reading or writing will say so
            continue
        if (place.exists() or place.is_symlink()) and not place.is_dir():  # which somebody may just have made
            raise _not_a_folder(folder)
    return LocalStore(folder, group)


def how_to_free(url: str) -> str:
    """What to do for room in a cache: there, since another one may be the user's usual one."""
    return f"free some with `ttbert cache gc --cache {shlex.quote(url)}`, which takes a day, or at once with --grace 0"


def _shortage(error: OSError, place: Path, needed: int) -> str:
    """What there is too little of where a disk is full; bytes are not said to be `needed` where the number is not known."""
    if error.errno == errno.EDQUOT:
        return "your quota is used up"
    status = os.statvfs(place)
    if status.f_files and not status.f_favail:
        return "no further file can be made there, however small (all inodes are in use)"
    free = f"{status.f_bavail * status.f_frsize:,} free"
    return f"{needed:,} bytes needed, {free}" if needed else free


def _check_group(folder: Path, group: str) -> None:
    try:
        wanted = grp.getgrnam(group).gr_gid
    except KeyError:
        raise InputError(f"there is no group {group!r:.60} on this machine", "see `id` for yours") from None
    if os.geteuid() != 0 and wanted not in (*os.getgroups(), os.getegid()):
        raise InputError(f"you are not in the group {group}", "see `id` for yours, or ask who looks after this machine")
    if not is_folder(folder):
        return
    status, there = folder.stat(), shlex.quote(str(folder))
    if status.st_gid != wanted or status.st_mode & _SHARED & ~0o005 != _SHARED & ~0o005:
        raise InputError(
            f"{folder} is there, and is not shared with the group {group}: its mode is {stat.S_IMODE(status.st_mode):04o}",
            f"its owner, {_owner(folder)}, can run: chgrp -R {group} {there} && chmod -R g+rwX {there} && "
            f"find {there} -type d -exec chmod g+s {{}} +",
        )


def _not_a_folder(path: Path) -> CacheError:
    place = nearest_existing(path)
    if place.is_dir():
        place = next(each for each in (path, *path.parents) if each.parent == place)
        what = "leads to nothing"
    else:
        what = "is a file"
    return CacheError(f"{path} cannot be made: {place} {what}", "choose a folder with --cache or TTBERT_CACHE")


def _sync_name(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # published, and deleted already, with the folder
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with _open_folder(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _open_folder(folder: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _owner(path: Path) -> str:
    try:
        return pwd.getpwuid(path.stat().st_uid).pw_name
    except (KeyError, OSError):
        return "somebody else"
