"""A lease: who does a piece of work that several machines want done, so that the others can wait for the result.

It is a numbered object below `leases/`, created once like every other. The holder renews it by creating the next number;
when none has come for a while, by the store's own clock, anybody may create the next one and go on in the holder's place.
A lease saves work and nothing more: if two hold it at once, both publish the same.

    leases/WORK/00000007     who holds it, and since when, by the age of the object
    leases/WORK/failed-...   the work cannot be done, and why: for those who were waiting for it at that moment
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CacheError, IncompatibleError, IntegrityError, StoreUnavailable, TtbertError
from ..frozen import Frozen
from .clock import read_clock
from .digest import Digest
from .document import Fields, canonical
from .stores.store import Entry, Store

_log = logging.getLogger(__name__)

SCHEMA = "ttbert.lease/1"
FAILED = "ttbert.failed/1"
LASTS = 30.0
"""Seconds without a renewal after which a holder is taken for dead."""
_POLL = 1.0
_LARGEST = 10_000
_NUMBER = re.compile(r"[0-9]{8,12}")
"""Of a renewal: of one a second, there would be enough for thirty thousand years."""
_PIDS = (1 << 22) + 1
"""More than any number of a process on Linux."""

T = TypeVar("T")


@contextmanager
def leased(
    store: Store,
    work: Digest,
    find: Callable[[], T | None],
    lasts: float = LASTS,
    final: type[TtbertError] | None = None,
) -> Iterator[T | None]:
    """Inside `with`, either hold the lease on `work`, with None, or have what `find` found because another has done it.

    Waits as long as another one holds it, and tells so once. Where the work fails with `final` itself, an error that everybody
    would meet, those who wait for it raise that, too, and do not try one after another. Whoever asks later tries it again.
    Raises what writing to the store does.
    """
    lease = _Lease(store, f"leases/{work.hex}", lasts)
    told = False
    while True:
        found = find()
        if found is not None:
            yield found
            return
        entries = list(store.list(lease.folder))
        if final and (failure := lease.failure(entries)):
            raise failure.error(final)
        holder = lease.take(entries)
        if holder is None:
            break
        if not told:
            told = True
            _log.warning("%s is at work on this already; waiting for it", holder)
        time.sleep(_POLL * random.uniform(0.5, 1.0))
    with lease.renewed():
        try:
            # Whoever had it may have finished between the two looks.
            yield find()
        except TtbertError as error:
            if type(error) is final:
                lease.report(error)
            raise


def is_held(key: str) -> bool:
    """Whether an object below `leases/` says that somebody is at work."""
    return _NUMBER.fullmatch(key.rpartition("/")[2]) is not None


class Failure(Frozen):
    """Why some work cannot be done, as the machine found out that tried."""

    host: str
    message: str
    hint: str

    def to_bytes(self) -> bytes:
        return canonical({"schema": FAILED, "host": self.host, "message": self.message, "hint": self.hint})

    @classmethod
    def parse(cls, content: bytes, where: str) -> Failure:
        """Read the canonical form; IntegrityError, naming `where`, for anything else."""
        fields = Fields.parse(content, where)
        fields.schema(FAILED)
        failure = cls(fields.take("host", str), fields.take("message", str), fields.take("hint", str))
        fields.done()
        return failure

    def error(self, kind: type[TtbertError]) -> TtbertError:
        return kind(f"{self.message} (so found {self.host}, which this waited for)", self.hint)


_SOMEBODY = "another process"
"""Of this machine or of another one: who has just taken a lease has not been asked for a name."""


class _Lease:
    def __init__(self, store: Store, folder: str, lasts: float) -> None:
        self._store, self.folder, self._lasts = store, folder, lasts
        self._mine = _this_process()
        self._number = self._tried = 0
        self._offset: float | None = None
        self._old: set[str] | None = None

    def failure(self, entries: Sequence[Entry]) -> Failure | None:
        """What was reported since this was asked first; None where that is nothing, or cannot be read."""
        reported = {entry.key for entry in entries if _is_report(entry.key)}
        if self._old is None:
            self._old = reported
        for key in sorted(reported - self._old):
            with suppress(KeyError, IntegrityError, IncompatibleError):
                return Failure.parse(self._store.get(key, 0, _LARGEST), key)
        return None

    def report(self, error: TtbertError) -> None:
        """Tell those who wait that the work cannot be done."""
        failure = Failure(os.uname().nodename, error.message, error.hint)
        with suppress(CacheError):  # then they find out by themselves
            self._store.put(f"{self.folder}/failed-{uuid.uuid4().hex}", failure.to_bytes())

    def take(self, entries: Sequence[Entry]) -> str | None:
        """None if it is ours now, or who has it; `entries` are those of the folder at this moment."""
        holds = [entry for entry in entries if is_held(entry.key)]
        if not holds:
            if not self._create(1):
                return _SOMEBODY
        else:
            latest = holds[-1]
            holder = self._read(latest.key)
            if not (_is_dead(holder) or self._now() - latest.modified > self._lasts):
                return str(holder.get("host", _SOMEBODY))[:60]
            if not self._create(int(latest.key.rpartition("/")[2]) + 1):
                return _SOMEBODY
        for entry in entries:
            # A report stays until all who waited have looked, however late they see what others write.
            if is_held(entry.key) or (_is_report(entry.key) and self._now() - entry.modified > 2 * self._lasts):
                self._delete(entry.key)
        return None

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Keep it until the end of `with`, then give it back."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(ended,), daemon=True, name="lease")
        try:
            thread.start()  # and it runs, even if Ctrl-C comes here
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
        if thread.is_alive():
            thread.join()
        self._delete(self._key(self._number))
        with suppress(CacheError):
            if self._tried > self._number and self._is_mine(self._tried):  # a renewal of which no answer came
                self._delete(self._key(self._tried))

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(self._lasts / 3):
            with suppress(CacheError):  # no answer now: there is time for another attempt
                before = self._number
                if not self._create(before + 1):
                    return  # taken for dead and taken over; what is done twice is published once
                self._delete(self._key(before))

    def _create(self, number: int) -> bool:
        """Whether it is ours now: also where it was before, by an attempt of which no answer came."""
        self._tried = number
        if not self._store.put(self._key(number), self._mine) and not self._is_mine(number):
            return False
        self._number = number
        return True

    def _is_mine(self, number: int) -> bool:
        try:
            return self._store.get(self._key(number), 0, _LARGEST) == self._mine
        except KeyError:
            return False

    def _delete(self, key: str) -> None:
        with suppress(CacheError):  # it ends by itself
            self._store.delete(key)

    def _key(self, number: int) -> str:
        return f"{self.folder}/{number:08d}"

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found = json.loads(self._store.get(key, 0, _LARGEST))
        except (KeyError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _now(self) -> float:
        """The time by the store's clock, which is asked once, by writing."""
        if self._offset is None:
            self._offset = read_clock(self._store, "leases") - time.monotonic()
        return time.monotonic() + self._offset


def _is_report(key: str) -> bool:
    return key.rpartition("/")[2].startswith("failed-")


def _this_process() -> bytes:
    return canonical({"schema": SCHEMA, "host": os.uname().nodename, **_identity(os.getpid()), "nonce": uuid.uuid4().hex})


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
    here, pid = _identity(os.getpid()), holder.get("pid")
    if (holder.get("boot"), holder.get("pids")) != (here["boot"], here["pids"]):
        return False
    if type(pid) is not int or not 0 < pid < _PIDS:
        return False
    try:
        return _identity(pid)["started"] != holder.get("started")
    except OSError:
        return not _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of somebody else's which /proc does not show, as where it is mounted with `hidepid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False
