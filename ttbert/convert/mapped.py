"""A large file's content where it lies in the page cache, which saves copying it.

To touch what the disk does not give, or somebody has cut off meanwhile, would end the process. So a part is fetched before
it is handed out; and while it is looked at there is a lease on the file: the kernel has whoever is about to open it for
writing wait until the lease is given back, and tells the holder. What is not in the page cache is not handed out: fetched
this way it takes longer than to read it.

The kernel has nobody wait for longer than /proc/sys/fs/lease-break-time says, 45 seconds. Who looked at a part for longer,
such as a process that was stopped meanwhile, is told in the end that it may have changed; it ends by SIGBUS if it was cut off.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

from ..cache.stores.mounts import find_mount
from ..errors import UnreadableError

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14, which Python's mmap does not name."""

Look: TypeAlias = Callable[[int, int], AbstractContextManager[memoryview]]
"""Inside of `with`, the bytes of a file from a position on, as many as are asked for.

BlockingIOError if they are not in the page cache, any other OSError if the file cannot be looked at any more.
"""


class MappedFile:
    """A file of a known size in bytes, whose content can be looked at. Where that is not possible, there is OSError, and the
    file has to be read: if it belongs to another user, may be changed without asking for leases, is open for writing or was
    changed, or if the kernel is older than 5.14.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._asks_for_leases = find_mount(path).asks_for_leases

    @contextmanager
    def leased(self) -> Iterator[Look]:
        """Inside of `with`, how to look at parts of the file; several threads may. Not to be held for long: writers wait.

        UnreadableError in the end if one of them did not wait until then.
        """
        if not self._asks_for_leases:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        with self._path.open("rb", buffering=0) as file:
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored, unlike the usual one
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            try:
                if os.fstat(file.fileno()).st_size != self._size:
                    raise _changing()
                yield partial(_look, file, mmap.mmap(file.fileno(), self._size, prot=mmap.PROT_READ))
            finally:
                self._give_back(file)  # closing does not, as long as it is mapped

    def _give_back(self, file: BinaryIO) -> None:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError as error:  # there is none any more
            raise changed(self._path) from error


def changed(path: Path) -> UnreadableError:
    return UnreadableError(
        f"{path} changed while it was being read; nothing was made of it",
        "wait until whatever writes to it is done, then try again",
    )


@contextmanager
def _look(file: BinaryIO, mapping: mmap.mmap, start: int, size: int) -> Iterator[memoryview]:
    if fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
        raise _changing()
    _check_cached(file, start + size - 1)
    page = start - start % mmap.PAGESIZE
    mapping.madvise(_POPULATE_READ, page, start + size - page)
    try:
        yield memoryview(mapping)[start : start + size]
    finally:  # this process is done with it; the page cache keeps it
        mapping.madvise(mmap.MADV_DONTNEED, page, start + size - page)


def _check_cached(file: BinaryIO, position: int) -> None:
    try:
        os.preadv(file.fileno(), [bytearray(1)], position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # of a file system that does not tell
            raise


def _changing() -> OSError:
    return OSError(errno.ETXTBSY, "somebody writes to the file")
