"""Advisory locks between the processes and threads of one machine, which save work and which nothing depends on."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL = 0.05
_FLOCK = "hhqqi4x"
"""`struct flock` of 64-bit Linux: type, whence, start, length, process."""


@contextmanager
def machine_lock(path: Path, number: int, patience: float) -> Iterator[bool]:
    """Hold one of the 2**62 locks that a file stands for, or go on without it after `patience` seconds; whether it is held.

    It is a lock on a byte, which need not be there, so that the file stays empty. A thread that holds it waits for itself, too.
    Where there is no such file, or it cannot be locked (a read-only disk, a share without locks), nobody waits.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _wait(descriptor, number, time.monotonic() + patience)
    finally:
        os.close(descriptor)  # and so gives the lock back, as the end of the process would


def _wait(descriptor: int, number: int, deadline: float) -> bool:
    lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)  # of the open file: unlike older ones it keeps threads apart
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_INTERVAL)
        except OSError:
            return False
