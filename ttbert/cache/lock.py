"""An advisory lock between the processes of one machine, which saves work and which nothing depends on."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL = 0.05


@contextmanager
def machine_lock(path: Path, patience: float) -> Iterator[bool]:
    """Hold the lock that a file stands for, or go on without it after `patience` seconds; whether it is held.

    Where there is no such file, or it cannot be locked (a read-only disk, a share without locks), nobody waits.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _wait(descriptor, time.monotonic() + patience)
    finally:
        os.close(descriptor)  # and so gives the lock back, as the end of the process would


def _wait(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_INTERVAL)
        except OSError:
            return False
