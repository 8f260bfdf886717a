"""Garbage collection, carried out: leftovers first, then a record of what is newly condemned, then what was condemned before.

On a disk that has no room for the record or an announcement, a few of the largest blobs that go in any case go before it.

Killed at any step it leaves a sound cache: a record that is still there is swept from the start by the next collection, and
what is gone by then is passed over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress

from ..errors import CacheError, NoSpaceError, StoreUnavailable
from ..frozen import Frozen
from .cache import Cache
from .census import Census, take_census
from .clock import read_clock
from .condemned import FOLDER, LOOKS, Condemned, CondemnedRef, Sweeper, condemn, read_record
from .gc import GRACE, Limits, Plan, plan_gc
from .lease import LASTS, is_held
from .reach import OWN, Scope, find_unused, keys_in_use, union
from .stores.store import Entry, Store, is_temporary

_log = logging.getLogger(__name__)

_ROOM = 8
"""Blobs that make room on a full disk: as many as there are files and folders to be made, in case it is out of those."""

_AHEAD = 1800.0
"""Seconds by which the clocks may differ: half of what the shortest-lived leftovers are given."""

_PORTION = 100_000
"""Objects that one record names, for all of them to fit into a document."""


def run_gc(cache: Cache, plan: Plan, looks: tuple[float, ...] = LOOKS) -> int:
    """Do what the plan says, as far as it is still right when the turn of each thing comes; the number of bytes freed.

    A look at the cache is acted on for the first of so many seconds; where looking takes most of them, for the next.
    StoreUnavailable where it takes longer than the last. NoSpaceError where what is to be done cannot be written down, and
    nothing goes that could make room for it. CacheError where this machine's clock, by which the plan tells ages, is ahead of
    the store's.
    """
    _check_clock(cache.store)
    freed = sum(_remove_leftover(cache, waste.entry) for waste in plan.leftovers)
    try:
        return freed + _collect(cache, plan, looks)
    except NoSpaceError:
        room = _make_room(cache, plan)
        if not room:
            raise
        return freed + room + _collect(cache, plan, looks)


def _collect(cache: Cache, plan: Plan, looks: tuple[float, ...]) -> int:
    freed, names = 0, list(plan.ripe)
    for refs, objects in _portions(plan):
        record = condemn(cache.store, refs, objects)
        if plan.grace == 0:
            names.append(record.name)
    for name in names:
        found = read_record(cache.store, name)
        if found:
            freed += _Sweep(cache, found, plan.limits, looks).run()
    return freed


class _Seen(Frozen):
    """The cache at a moment, and the keys that are spared: in use, or reprieved."""

    census: Census
    spared: set[str]


class _Stop(Exception):
    """Nothing may be deleted by this record now.

    Another collector has finished with it; or a ref cannot be read, so that it keeps everything; or somebody converts, and the
    record is younger than any conversion.
    """


class _Sweep:
    """One record being swept."""

    def __init__(self, cache: Cache, record: Condemned, limits: Limits, looks: tuple[float, ...]) -> None:
        self._cache, self._record, self._limits = cache, record, limits
        self._sweeper = Sweeper(cache.store, record)
        self._looks = list(looks)
        self._scope = Scope(cache, limits.only)
        self._seen: _Seen | None = None

    def run(self) -> int:
        """Delete what is in nobody's way; the number of bytes freed."""
        store, record, freed = self._cache.store, self._record, 0
        try:
            for ref in filter(lambda ref: self._scope.has(ref.folder), record.refs):
                seen = self._look()
                found = find_unused(ref, record, seen.census)
                if found and ref.folder not in seen.spared:
                    self._cache.remove_ref(found, after=ref.number)
            self._seen = None  # what was forgotten is in it
            for key in filter(self._scope.has, sorted(record.objects, key=_rank)):
                seen = self._look()
                entry = store.head(key)
                if entry and entry.modified < record.since and key not in seen.spared:
                    freed += self._remove_company(key)
                    freed += entry.size if self._sweeper.delete(key) else 0
        except _Stop as stop:
            self._sweeper.stop()
            _log.warning("stopped deleting what was condemned: %s", stop)
            return freed
        # After any other error a deletion may still be on its way; what was announced then says for how long.
        if all(map(self._scope.has, record.keys)):
            self._sweeper.finish()
        else:
            self._sweeper.stop()
        return freed

    def _remove_company(self, key: str) -> int:
        """Remove what only says something of a manifest: stamps and signatures; the bytes that were freed."""
        kind, _, name = key.rpartition("/")
        folders = [f"used/{name}", f"signatures/manifest/{name}"] if kind.startswith("manifests/") else []
        entries = [entry for folder in folders for entry in self._cache.store.list(folder)]
        return sum(entry.size for entry in entries if self._sweeper.delete(entry.key))

    def _look(self) -> _Seen:
        """What counts at this moment: seen so recently that it may be acted on."""
        while self._seen is None or not self._sweeper.left:
            seconds = self._looks[0]
            self._seen = self._look_anew(seconds)
            if len(self._looks) > 1 and self._sweeper.left < seconds / 2:
                del self._looks[0]
            elif not self._sweeper.left:
                raise StoreUnavailable(
                    f"{self._cache.store.url} is too slow: when everything had been looked at, that was out of date",
                    "collect on a machine that is nearer to the cache",
                )
        return self._seen

    def _look_anew(self, seconds: float) -> _Seen:
        now = self._sweeper.announce(seconds)
        reprieved = self._sweeper.reprieved()
        census = take_census(self._cache)
        unreadable = next((model for model in census.models if model.cached is None), None)
        if reprieved is None:
            raise _Stop("another collection has finished with it")
        if unreadable:
            raise _Stop(f"{unreadable.ref} cannot be read, so what belongs to it is not known")
        if now - self._record.since < GRACE and _somebody_converts(census, now):
            raise _Stop("somebody is converting, and nothing leads yet to what they rely on; collect again later")
        return _Seen(census, reprieved | union(keys_in_use(self._cache, census, self._limits.keep_last)))


def _make_room(cache: Cache, plan: Plan) -> int:
    """Delete a few of the blobs that go now in any case, unannounced; the bytes freed, none where somebody may rely on some.

    On a full disk no writer can make a name lead to them. One that gets room in the very moment still looks whether they are
    there, before and after. A model that is given up lacks them until its name is forgotten, a moment later.
    """
    census = take_census(cache)
    if _somebody_converts(census, time.time()) or any("/reprieved/" in entry.key for entry in census.below("gc")):
        return 0
    now = plan_gc(cache, census, plan.limits, plan.grace)
    going = (waste.entry for waste in now.going)
    blobs = sorted((entry for entry in going if entry.key.startswith("blobs/")), key=lambda entry: entry.size)
    return sum(entry.size for entry in blobs[-_ROOM:] if cache.store.delete(entry.key))


def _check_clock(store: Store) -> None:
    with suppress(NoSpaceError):  # nobody can tell, and what is left behind may be what fills the disk
        ahead = time.time() - read_clock(store, FOLDER)
        if ahead > _AHEAD:
            raise CacheError(
                f"this machine's clock is {ahead / 3600:.1f} hours ahead of that of {store.url}: everything there seems older "
                "than it is; nothing was deleted",
                "set the clocks by NTP; `ttbert cache doctor` shows how they differ",
            )


def _portions(plan: Plan) -> Iterator[tuple[tuple[CondemnedRef, ...], dict[str, str]]]:
    """What is to be condemned, a record each. The refs are in the first: what they lead to stays until they are forgotten."""
    for start in range(0, max(1, len(plan.condemn)) if plan.condemns else 0, _PORTION):
        objects = {each.entry.key: each.reason for each in plan.condemn[start : start + _PORTION]}
        yield () if start else plan.condemn_refs, objects


def _remove_leftover(cache: Cache, entry: Entry) -> int:
    """The bytes that were freed: none if it is gone, or younger than it was."""
    store = cache.store
    if is_temporary(entry.key):
        return entry.size if store.remove_debris(entry) else 0
    return entry.size if store.head(entry.key) == entry and store.delete(entry.key) else 0


def _somebody_converts(census: Census, now: float) -> bool:
    """Whether a lease is alive by the store's clock: its holder relies on blobs that nothing leads to yet."""
    return any(now - entry.modified < 2 * LASTS for entry in census.below("leases") if is_held(entry.key))


def _rank(key: str) -> tuple[int, str]:
    return OWN.index(key.split("/")[0]), key
