"""How things are deleted beside running readers and writers: condemned first, deleted later, unless somebody objects.

No store can delete an object on the condition that no other one leads to it. So deletion takes two phases:

    gc/RECORD/condemned         what is to be deleted, written when nothing led to it any more
    gc/RECORD/reprieved/...     a writer's word that it relies on some of that after all
    gc/RECORD/sweeping/...      a collector's word that it is deleting now, and for how many seconds at most
    gc/clock/...                a collector asks what time it is there

*Mark*: a collector writes the record, and deletes nothing. *Sweep*: when the record is older than the grace period, a
collector writes `sweeping`, looks at everything that counts (refs, stamps, reprieves), deletes what is still in nobody's way,
and removes the record at the end. By what it saw it acts for some seconds, the first of `LOOKS`; then it writes and looks
again. Where looking takes most of these seconds, the next look is good for longer.

*Writers*: blobs are named by content, so a writer may find that one is there already, perhaps condemned. Before it relies
on it, it calls `reprieve`: that writes `reprieved`, and only then looks for `sweeping`. One of the two sees the other,
whatever the order: either the collector's look shows the reprieve, and the object stays; or the writer sees that a sweep is
under way, waits until it has ended or acts by a later look, and looks for the object again. A writer that has the content
publishes it once more if it went; `move_ref` does all this for everything that a ref is about to lead to.

What a sweep removes last is the record, then the reprieves, then its own announcement. A collector that finds its record
gone stops; so the reprieves that it saw are all there were. A writer that meets an announcement without a record waits for
that, too. A killed collector leaves a record, which the next one sweeps from the start, and announcements that time out:
when the look was good no more, and a deletion begun at its very end is done or never will be (`Capabilities.done_within`).
Refs need none of this time: whoever relies on a condemned one adds an entry to it, and it is forgotten only up to the last
entry that was condemned.

What this rests on, and what it does not cover: a listing shows what was written before it (on network file systems after
`Capabilities.seen_within`, which collectors wait for); a conversion takes less than the grace period from the first blob
that it relies on to its ref. And a collector that the machine suspends for as long as `done_within`, exactly between its last
glance at the clock and the deletion, may delete what was reprieved meanwhile. Then a model lacks a blob, which every command
says, and converting it again restores it: a wrong byte is never served.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import unquote

from ..errors import IncompatibleError, IntegrityError, StoreReadOnly
from ..frozen import Frozen
from .document import LARGEST, Fields, canonical
from .stores.store import Entry, Store, is_key, read_twice

FOLDER = "gc"
LOOKS = (20.0, 80.0, 320.0)
"""Seconds for which a collector deletes by what it saw: at first, and where looking takes longer. Writers wait so long for a
collector that was killed."""

_RECORD, _REPRIEVE, _SWEEPING = "ttbert.condemned/1", "ttbert.reprieved/1", "ttbert.sweeping/1"
_OWN, _REFS = ("blobs/", "manifests/", "actions/"), ("refs/",)
"""What may be condemned, wherever the record came from."""

_LONGEST = 900.0
"""Seconds that a writer waits for a sweep at most, whatever that says of itself, or longer where changes are seen late."""

_FORGOTTEN = 3600.0
"""Seconds after which a sweep that lost its record has certainly ended, even where clocks differ."""

_PAUSE, _LONGEST_PAUSE = 0.02, 1.0

_TOLD = 300
"""Characters of a reason that are kept: it may hold the path of a folder, and be that of many thousand objects."""

_SILENT = 5.0
"""Seconds that a writer waits for a collector without a word."""

_log = logging.getLogger(__name__)


class CondemnedRef(Frozen):
    """A ref that is to be forgotten, unless it is moved or its model is used; `number` is its newest entry."""

    folder: str
    number: int
    reason: str

    def __str__(self) -> str:
        """The name as people write it."""
        return unquote(self.folder.removeprefix("refs/"))


class Condemned(Frozen):
    """A record: the refs and objects that are to be deleted, each with the reason, and since when, by the store's clock."""

    name: str
    since: float
    refs: tuple[CondemnedRef, ...]
    objects: Mapping[str, str]

    @property
    def folder(self) -> str:
        return f"{FOLDER}/{self.name}"

    @property
    def keys(self) -> set[str]:
        """Everything it names; a ref by its folder."""
        return {*self.objects, *(ref.folder for ref in self.refs)}


def condemn(store: Store, refs: Iterable[CondemnedRef], objects: Mapping[str, str]) -> Condemned:
    """Write a record of what is to be deleted."""
    name = uuid.uuid4().hex
    document = {
        "schema": _RECORD,
        "refs": [{"folder": each.folder, "number": each.number, "reason": each.reason[:_TOLD]} for each in refs],
        "objects": [{"key": key, "reason": reason[:_TOLD]} for key, reason in sorted(objects.items())],
    }
    store.put(f"{FOLDER}/{name}/condemned", canonical(document))
    record = read_record(store, name)
    if record is None:
        raise IntegrityError(f"{store.url}/{FOLDER}/{name} vanished", "somebody else is cleaning up; try again")
    return record


def read_record(store: Store, name: str) -> Condemned | None:
    """A record, or None if it was removed. IntegrityError for a damaged one."""
    key = f"{FOLDER}/{name}/condemned"
    entry = store.head(key)
    try:
        fields = Fields.parse(read_twice(store, key, LARGEST + 1), f"{store.url}/{key}")
    except KeyError:
        return None
    fields.schema(_RECORD)
    refs = [
        CondemnedRef(_key(each, "folder", _REFS), each.size("number"), each.take("reason", str))
        for each in fields.objects("refs")
    ]
    objects = {_key(each, "key", _OWN): each.take("reason", str) for each in fields.objects("objects")}
    fields.done()
    return Condemned(name, entry.modified, tuple(refs), objects) if entry else None


def record_names(entries: Iterable[Entry]) -> list[str]:
    """The names of the records in a listing of the folder `gc`."""
    parts = (entry.key.split("/") for entry in entries)
    return [part[1] for part in parts if len(part) == 3 and part[0] == FOLDER and part[2] == "condemned"]


class Objections:
    """A writer's side: nothing that it relies on is deleted under it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Condemned | None] = {}

    def reprieve(self, keys: Collection[str]) -> set[str]:
        """Keep what is stored under `keys` from being deleted, or wait until it is; those that somebody meant to delete.

        If there are any, look whether it is all still there. Costs one listing where nothing is condemned. For what leads
        to a ref give the ref's folder, and if it is among those, add an entry to it. Where nothing may be written, none are.
        """
        concerned = self._concerned(list(self._store.list(FOLDER)), set(keys))
        if not concerned:
            return set()
        now = time.time()
        for folder, found in concerned.items():
            document = {"schema": _REPRIEVE, "keys": [{"key": key} for key in sorted(found)]}
            key = f"{folder}/reprieved/{uuid.uuid4().hex}"
            try:
                self._store.put(key, canonical(document))
            except StoreReadOnly:
                return set()  # whoever may write nothing will let nothing lead there, and is but a reader
            written = self._store.head(key)
            now = written.modified if written else now
        entries = list(self._store.list(FOLDER))
        folders = {*concerned, *self._concerned(entries, set(keys))}
        self._wait({key: until for key, until in self._sweeping(entries, folders).items() if until > now}, now)
        return set().union(*concerned.values())

    def _concerned(self, entries: list[Entry], keys: set[str]) -> dict[str, set[str]]:
        """The folders of the records that name some of the keys, and these; all of them where a sweep has lost its record."""
        names = record_names(entries)
        for name in set(names) - self._known.keys():
            try:
                self._known[name] = read_record(self._store, name)
            except (IntegrityError, IncompatibleError):
                self._known[name] = None  # no collector of this version deletes by it
        records = [record for name in names if (record := self._known[name])]
        concerned = {record.folder: found for record in records if (found := record.keys & keys)}
        oldest = time.time() - _FORGOTTEN
        for entry in entries:
            folder, _, kind = entry.key.rpartition("/")[0].rpartition("/")
            if kind == "sweeping" and folder.rpartition("/")[2] not in names and entry.modified > oldest:
                concerned[folder] = keys
        return concerned

    def _sweeping(self, entries: list[Entry], folders: set[str]) -> dict[str, float]:
        """The announcements of sweeps, and until when each may act by what was seen before."""
        longest = max(_LONGEST, _lasts(self._store, LOOKS[-1]))
        found = {}
        for entry in entries:
            if entry.key.rpartition("/")[0].removesuffix("/sweeping") in folders and "/sweeping/" in entry.key:
                with contextlib.suppress(KeyError, IntegrityError, IncompatibleError):
                    fields = Fields.parse(read_twice(self._store, entry.key, 1000), entry.key)
                    fields.schema(_SWEEPING)
                    found[entry.key] = entry.modified + min(fields.size("seconds"), longest)
        return found

    def _wait(self, sweeping: dict[str, float], now: float) -> None:
        """Until each of these sweeps has ended, or can no longer act by what it saw; `now` is the store's clock."""
        started, pause, told = time.monotonic(), _PAUSE, False
        while sweeping:
            if not told and time.monotonic() - started > _SILENT:
                longest = max(sweeping.values()) - now - _SILENT
                _log.warning("waiting for a `gc` that is deleting, or was killed while it was: %.0f s at most", longest)
                told = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            passed = now + time.monotonic() - started
            sweeping = {key: until for key, until in sweeping.items() if until > passed and self._store.head(key)}


class Sweeper:
    """A collector's side: announce a look, and know for how long it is good."""

    def __init__(self, store: Store, record: Condemned) -> None:
        self._store, self._record = store, record
        self._settles = _settles(store)
        self._until = 0.0
        self._announced: list[str] = []

    def announce(self, seconds: float = LOOKS[0]) -> float:
        """To be called before a look that is to be good for so long; the store's clock at that moment.

        Where machines see each other's writes late, it returns only when every writer that could not yet see the
        announcement has made its own be seen.
        """
        self._until = time.monotonic() + self._settles + seconds
        key = f"{self._record.folder}/sweeping/{uuid.uuid4().hex}"
        self._store.put(key, canonical({"schema": _SWEEPING, "seconds": math.ceil(_lasts(self._store, seconds))}))
        self._announced.append(key)
        entry = self._store.head(key)
        time.sleep(self._settles)
        return entry.modified if entry else time.time()

    @property
    def left(self) -> float:
        """Seconds for which what was seen since the announcement may still be acted on."""
        return max(0.0, self._until - time.monotonic())

    def delete(self, key: str) -> bool:
        """Delete an object by what was seen; False where there is none, or that may not be acted on any more."""
        return self.left > 0 and self._store.delete(key)

    def reprieved(self) -> set[str] | None:
        """The keys that writers rely on; None where another collector has finished with the record.

        A word that is damaged may have been about anything: it keeps all that is in the record, which is condemned anew then.
        """
        keys = set()
        for entry in self._store.list(f"{self._record.folder}/reprieved"):
            try:
                fields = Fields.parse(read_twice(self._store, entry.key, LARGEST + 1), f"{self._store.url}/{entry.key}")
                fields.schema(_REPRIEVE)
                keys |= {_key(each, "key", (*_OWN, *_REFS)) for each in fields.objects("keys")}
            except KeyError:  # removed meanwhile
                continue
            except IntegrityError:
                keys |= self._record.keys
        # In this order: the record goes first, so if it is there now, no reprieve was missing above.
        return keys if self._store.head(f"{self._record.folder}/condemned") else None

    def finish(self) -> None:
        """Remove the record, and then what belongs to it, but for the announcements of others, which may still be at work."""
        self._store.delete(f"{self._record.folder}/condemned")
        for entry in list(self._store.list(f"{self._record.folder}/reprieved")):
            self._store.delete(entry.key)
        self.stop()

    def stop(self) -> None:
        """Say that nothing is deleted any more."""
        while self._announced:
            self._store.delete(self._announced.pop())


def _settles(store: Store) -> float:
    """Seconds from an announcement until it and what writers wrote before they could see it are seen everywhere."""
    return 2 * store.capabilities.seen_within


def _lasts(store: Store, look: float) -> float:
    """Seconds from an announcement until nothing is deleted any more by the look after it, which is good for so long."""
    return _settles(store) + look + store.capabilities.done_within


def _key(fields: Fields, name: str, prefixes: tuple[str, ...]) -> str:
    key = fields.take(name, str)
    if not is_key(key) or not key.startswith(prefixes):
        raise fields.wrong(f"{key!r:.60} is not a key")
    return key
