"""Garbage collection, planned: what no ref leads to, and the models that limits give up.

What is found is condemned, and deleted by a collection after the grace period if nobody has objected until then: see
`condemned` for how that is safe beside readers and writers, and `sweep` for the deed. Leftovers, which nobody could ever
load (temporary files of killed writers, superseded stamps, remains of killed collections), go as soon as they are old enough.

Where a ref cannot be read, what belongs to it is not known. Then nothing but leftovers is deleted, and nothing is condemned,
until the ref is mended or forgotten.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ..errors import CacheError, IncompatibleError, IntegrityError
from ..frozen import Frozen
from ..text import origin_text
from .cache import Cache, action_key, blob_key, manifest_key
from .census import Census, Model
from .condemned import Condemned, CondemnedRef, read_record, record_names
from .digest import Digest
from .reach import Scope, find_unused, keys_in_use, union
from .refs import Ref
from .stores.store import Entry
from .used import manifest_of, superseded

GRACE = 24 * 3600.0
"""Seconds from condemning to deleting: longer than any conversion takes."""

_ABANDONED = 3600.0
"""Seconds after which what a killed collection or check left is nobody's any more."""


class Limits(Frozen):
    """What may stay.

    `max_size` is bytes in the whole cache: the least recently used models are given up first, but none that was used today.
    `older_than` is seconds since the last use. `keep_last` is how many meanings of each ref are kept, the present one
    included. With `only`, no other model is given up, and nothing is deleted that does not belong to these.
    """

    max_size: int | None = None
    older_than: float | None = None
    keep_last: int = 1
    only: tuple[Ref, ...] = ()


class Waste(Frozen):
    """Something to delete, and why, in words for people."""

    entry: Entry
    reason: str


class Plan(Frozen):
    """What a collection would do, and what it leaves alone."""

    limits: Limits
    grace: float
    leftovers: tuple[Waste, ...]
    forget: tuple[CondemnedRef, ...] = ()
    delete: tuple[Waste, ...] = ()
    """Condemned for long enough: these go now, the refs first."""
    condemn_refs: tuple[CondemnedRef, ...] = ()
    condemn: tuple[Waste, ...] = ()
    """These go with a collection after the grace period; now, where that is zero."""
    waiting: tuple[Waste, ...] = ()
    """Condemned, but not for long enough."""
    ripe: tuple[str, ...] = ()
    """The records to sweep."""
    young: tuple[Entry, ...] = ()
    """Temporary files that may belong to a writer at work."""
    over: int = 0
    """Bytes beyond `max_size` that stay, since what is left was used today or is not to be given up."""
    broken: tuple[Model, ...] = ()
    """The refs that cannot be read, and therefore keep everything."""

    @property
    def deletes(self) -> bool:
        """Whether something is deleted now, rather than condemned."""
        return bool(self.leftovers or self.going or self.forgotten)

    @property
    def condemns(self) -> bool:
        return bool(self.condemn or self.condemn_refs)

    @property
    def going(self) -> tuple[Waste, ...]:
        """Besides leftovers, all objects that are deleted now: without a grace period, what is found now among them."""
        return self.delete if self.grace else (*self.delete, *self.condemn)

    @property
    def forgotten(self) -> tuple[CondemnedRef, ...]:
        """Likewise, all refs that are forgotten now."""
        return self.forget if self.grace else (*self.forget, *self.condemn_refs)


def plan_gc(
    cache: Cache, census: Census, limits: Limits | None = None, grace: float = GRACE, quarantined: bool = False
) -> Plan:
    """What a collection would do. Reads the unreferenced manifests, to say what they were."""
    limits, now = limits or Limits(), time.time()
    records, foreign = _read_records(cache, census)
    leftovers = tuple(_leftovers(census, [*foreign, *(record.folder for record in records)], grace, quarantined, now))
    young = tuple(entry for entry in census.debris if now - entry.modified < grace)
    broken = tuple(model for model in census.models if model.cached is None)
    if broken:
        return Plan(limits, grace, leftovers, young=young, broken=broken)

    scope = Scope(cache, limits.only)
    used = keys_in_use(cache, census, limits.keep_last)
    in_use = union(used)
    condemned = {key: reason for record in records for key, reason in record.objects.items()}
    ripe = [record for record in records if now - record.since >= grace]
    forget = [ref for record in ripe for ref in record.refs if scope.has(ref.folder) and find_unused(ref, record, census)]
    in_use_then = union(_without(used, forget))
    due = {
        key
        for record in ripe
        for key in record.objects
        if key in census.led_to and census.led_to[key].modified < record.since and key not in in_use_then
    }
    going = [ref for record in records for ref in record.refs if scope.has(ref.folder) and find_unused(ref, record, census)]
    given_up, over = _give_up(census, _without(used, going), scope, limits, now)
    kept = union(_without(used, [*going, *given_up]))
    reasons = _reasons(cache, (entry for key, entry in census.manifests.items() if key not in in_use))
    reasons |= {key: ref.reason for ref in given_up for key in used[ref.folder]}
    unused = [(key, entry) for key, entry in census.led_to.items() if key not in kept and scope.has(key)]
    return Plan(
        limits,
        grace,
        leftovers,
        forget=tuple(forget),
        delete=tuple(Waste(entry, condemned[key]) for key, entry in unused if key in due),
        condemn_refs=tuple(given_up),
        condemn=tuple(Waste(entry, reasons.get(key, "no model uses it")) for key, entry in unused if key not in condemned),
        waiting=tuple(Waste(entry, condemned[key]) for key, entry in unused if key in condemned and key not in due),
        ripe=tuple(record.name for record in ripe),
        young=young,
        over=over,
    )


def _read_records(cache: Cache, census: Census) -> tuple[list[Condemned], list[str]]:
    """The records of what is condemned, the oldest first, and the folders of those that another version of ttbert wrote.

    Of several that one collection wrote, the one with the refs comes first. A damaged one is no record, and its remains are
    leftovers.
    """
    found, foreign = [], []
    for name in record_names(census.below("gc")):
        try:
            record = read_record(cache.store, name)
        except IntegrityError:
            continue
        except IncompatibleError:
            foreign.append(f"gc/{name}")
            continue
        if record:
            found.append(record)
    return sorted(found, key=lambda record: (record.since, not record.refs)), foreign


def _without(used: Mapping[str, set[str]], refs: Iterable[CondemnedRef]) -> dict[str, set[str]]:
    folders = {ref.folder for ref in refs}
    return {folder: keys for folder, keys in used.items() if folder not in folders}


def _give_up(
    census: Census, used: Mapping[str, set[str]], scope: Scope, limits: Limits, now: float
) -> tuple[list[CondemnedRef], int]:
    """The refs that the limits give up, and the bytes that stay beyond the largest size all the same."""
    holders = Counter(key for keys in used.values() for key in keys)
    size = census.size - sum(entry.size for key, entry in census.led_to.items() if key not in holders)
    given_up = []
    for model in sorted(census.models, key=census.last_used):
        folder, last = model.ref.folder, census.last_used(model)
        if folder not in used or last > now or not scope.has(folder):
            continue
        day = census.last_day(model)
        if limits.older_than is not None and now - last >= limits.older_than:
            reason = f"of {model.ref}, last used on {day}"
        elif limits.max_size is not None and size > limits.max_size:
            reason = f"of {model.ref}, last used on {day}, the longest ago"
        else:
            continue
        given_up.append(CondemnedRef(folder, census.newest(folder), reason))
        holders.subtract(used[folder])
        size -= sum(census.led_to[key].size for key in used[folder] if key in census.led_to and not holders[key])
    return given_up, max(0, size - limits.max_size) if limits.max_size is not None else 0


def _leftovers(census: Census, records: Iterable[str], grace: float, quarantined: bool, now: float) -> Iterator[Waste]:
    """What nobody could load; `records` are the folders in which collections may be at work."""
    for entry in census.debris:
        if now - entry.modified >= grace:
            yield Waste(entry, "left behind by a writer that was killed")
    for entry in census.quarantine if quarantined else ():
        if now - entry.modified >= grace:
            yield Waste(entry, "in quarantine")
    stamps = census.below("used")
    old = {entry.key: "a stamp of use that a later one supersedes" for entry in superseded(stamps)}
    for entry in stamps:
        manifest = manifest_of(entry.key)
        if manifest and manifest_key(manifest) not in census.manifests:
            old[entry.key] = "a stamp of use of a model that is gone"
    folders = tuple(f"{folder}/" for folder in records)
    for entry in (*census.below("gc"), *census.below("probes"), *census.below("leases")):
        if not entry.key.startswith(folders):
            old[entry.key] = "left behind by a collection, a check or a conversion that was killed"
    for key, reason in sorted(old.items()):
        if now - census.entries[key].modified >= _ABANDONED:
            yield Waste(census.entries[key], reason)


def _reasons(cache: Cache, manifests: Iterable[Entry]) -> dict[str, str]:
    """For each unreferenced manifest, and what it alone leads to, the model it was."""
    reasons: dict[str, str] = {}
    for entry in manifests:
        try:
            manifest = cache.read_outline(Digest("blake3", entry.key.rpartition("/")[2])).manifest
        except CacheError:
            reasons[entry.key] = "a manifest that cannot be read and that no name leads to"
            continue
        name = f"{origin_text(manifest.provenance.repo, manifest.provenance.commit)}:{manifest.policy}"
        reasons[entry.key] = f"manifest of {name}, to which no name leads"
        for key in (action_key(manifest.action), *map(blob_key, manifest.blobs)):
            reasons.setdefault(key, f"of {name}, to which no name leads")
    return reasons
