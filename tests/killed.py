"""Work on a cache, in processes that end themselves with SIGKILL at a certain step of it.

Run as a script, it reads lines of `WORK FOLDER STEP`, forks a process for each, and answers with its exit code. So the
forking process has no threads and has everything imported, and a hundred deaths take a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models import DAY, TINY, open_local, publish

from ttbert.cache.cache import Cache
from ttbert.cache.census import take_census
from ttbert.cache.gc import Limits, plan_gc
from ttbert.cache.places import Places
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.sweep import run_gc

KEY = "blobs/aa/one"
CONTENT = bytes(range(256)) * 40

WORKS: dict[str, Callable[[Path], object]] = {
    "put": lambda root: LocalStore(root).put(KEY, CONTENT),
    "publish": lambda root: publish(open_local(root)),
    "collect": lambda root: _collect(open_local(root)),
    "fetch": lambda root: _fetch(root),
}
_CHANGES = ("os.mkdir", "os.link", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime")


def _collect(cache: Cache) -> int:
    return run_gc(cache, plan_gc(cache, take_census(cache), Limits(older_than=30 * DAY)))


def _fetch(root: Path) -> None:
    """Fill a local tier from a cache in the folder `far` beside it."""
    cache = Places(str(root.with_name("far")), str(root)).open()
    cached = cache.resolve(TINY)
    assert cached
    cache.fetch(cached, TINY)


RunKilled = Callable[[str, Path, int], int]


@contextmanager
def killed_processes() -> Iterator[RunKilled]:
    """A function that does a work on a folder until just before its `step`-th change or sync; it gives the exit code."""
    with subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(work: str, root: Path, step: int) -> int:
            assert server.stdin and server.stdout
            print(work, step, root, file=server.stdin, flush=True)
            return int(server.stdout.readline())

        yield run
        server.communicate()


def _arm(left: int) -> None:
    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count()

    sync = os.fsync

    def counted_sync(descriptor: int) -> None:  # python announces no event for it
        count()
        sync(descriptor)

    os.fsync = counted_sync  # type: ignore[assignment]
    sys.addaudithook(watch)


def _serve() -> None:
    for line in sys.stdin:
        work, step, root = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            try:
                _arm(int(step))
                WORKS[work](Path(root))
                os._exit(0)
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
