"""A lease: who does a piece of work that several machines want done, so that the others can wait for the result.

It is a numbered object below `leases/`, created once like every other. The holder renews it by creating the next number;
when none has come for a while, by the store's own clock, anybody may create the next one and go on in the holder's place.
A lease saves work and nothing more: if two hold it at once, both publish the same.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CacheError, StoreUnavailable
from .digest import Digest
from .document import canonical
from .stores.store import Store

_log = logging.getLogger(__name__)

SCHEMA = "ttbert.lease/1"
LASTS = 30.0
"""Seconds without a renewal after which a holder is taken for dead."""
_POLL = 1.0
_LARGEST = 10_000

T = TypeVar("T")


@contextmanager
def leased(store: Store, work: Digest, find: Callable[[], T | None], lasts: float = LASTS) -> Iterator[T | None]:
    """Inside `with`, either hold the lease on `work`, with None, or have what `find` found because another has done it.

    Waits as long as another one holds it, and tells so once. Raises what writing to the store does.
    """
    lease = _Lease(store, f"leases/{work.hex}", lasts)
    told = False
    while True:
        found = find()
        if found is not None:
            yield found
            return
        holder = lease.take()
        if holder is None:
            break
        if not told:
            told = True
            _log.warning("%s is at work on this already; waiting for it", holder)
        time.sleep(_POLL * random.uniform(0.5, 1.0))
    with lease.renewed():
        # Whoever had it may have finished between the two looks.
        yield find()


class _Lease:
    def __init__(self, store: Store, folder: str, lasts: float) -> None:
        self._store, self._folder, self._lasts = store, folder, lasts
        self._number = 0
        self._offset: float | None = None

    def take(self) -> str | None:
        """None if it is ours now, or the name of the machine that has it."""
        entries = [entry for entry in self._store.list(self._folder) if entry.key.rpartition("/")[2].isdecimal()]
        if not entries:
            return None if self._create(1) else "another machine"
        latest = entries[-1]
        holder = self._read(latest.key)
        if not (_is_dead(holder) or self._now() - latest.modified > self._lasts):
            return str(holder.get("host", "another machine"))[:60]
        if not self._create(int(latest.key.rpartition("/")[2]) + 1):
            return "another machine"
        for entry in entries:
            self._delete(entry.key)
        return None

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Keep it until the end of `with`, then give it back."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(ended,), daemon=True, name="lease")
        thread.start()
        try:
            yield
        except StoreUnavailable:
            ended.set()  # and nobody waits for a store that does not answer: the lease ends by itself
            raise
        except BaseException:
            self._give_back(ended, thread)
            raise
        self._give_back(ended, thread)

    def _give_back(self, ended: threading.Event, thread: threading.Thread) -> None:
        ended.set()
        thread.join()
        self._delete(self._key(self._number))

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(self._lasts / 3):
            with suppress(CacheError):  # no answer now: there is time for another attempt
                before = self._number
                if not self._create(before + 1):
                    return  # taken for dead and taken over; what is done twice is published once
                self._delete(self._key(before))

    def _create(self, number: int) -> bool:
        if not self._store.put(self._key(number), _this_process()):
            return False
        self._number = number
        return True

    def _delete(self, key: str) -> None:
        with suppress(CacheError):  # it ends by itself
            self._store.delete(key)

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:08d}"

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found = json.loads(self._store.get(key, 0, _LARGEST))
        except (KeyError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _now(self) -> float:
        """The time by the store's clock, which is asked once, by writing."""
        if self._offset is None:
            key = f"leases/clock/{uuid.uuid4().hex}"
            self._store.put(key, b"")
            entry = self._store.head(key)
            self._delete(key)
            self._offset = (entry.modified if entry else time.time()) - time.monotonic()
        return time.monotonic() + self._offset


def _this_process() -> bytes:
    return canonical({"schema": SCHEMA, "host": socket.gethostname(), **_identity(os.getpid()), "nonce": uuid.uuid4().hex})


def _identity(pid: int) -> dict[str, object]:
    """What tells a process on this machine from every other one, before and after."""
    stat = Path("/proc", str(pid), "stat").read_text()
    return {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pids": str(Path("/proc/self/ns/pid").readlink()),
        "pid": pid,
        "started": int(stat.rpartition(")")[2].split()[19]),
    }


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, where that can be seen, and does not any more."""
    here = _identity(os.getpid())
    if (holder.get("boot"), holder.get("pids")) != (here["boot"], here["pids"]) or type(holder.get("pid")) is not int:
        return False
    try:
        return _identity(holder["pid"])["started"] != holder.get("started")
    except OSError:
        return True
