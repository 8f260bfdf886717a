"""Pruning: what no ref leads to any more, planned first and then deleted.

Only what is older than a grace period goes, since a conversion publishes its blobs before anything leads to them;
ages are read again at the moment of deletion. Quarantine is left alone unless it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import IncompatibleError, IntegrityError
from .cache import Cache, action_key, blob_key, manifest_key
from .census import Census
from .document import LARGEST
from .manifest import Manifest
from .store import Entry

GRACE = 24 * 3600.0
"""Seconds that something may lie unreferenced: longer than any conversion takes."""


@dataclass(frozen=True)
class Waste:
    """Something to delete, and why, in words for people."""

    entry: Entry
    reason: str
    debris: bool = False


@dataclass(frozen=True)
class PrunePlan:
    """What would be deleted, and how much is unreferenced but too young."""

    waste: tuple[Waste, ...]
    spared: tuple[Entry, ...]

    @property
    def size(self) -> int:
        return sum(each.entry.size for each in self.waste)


def plan_prune(cache: Cache, census: Census, grace: float = GRACE, quarantined: bool = False) -> PrunePlan:
    """Find what nothing leads to. Reads the unreferenced manifests, to say what they were."""
    used = _keys_in_use(census)
    reasons = _reasons(cache, [entry for key, entry in census.manifests.items() if key not in used])
    found = [*census.manifests.items(), *census.actions.items(), *census.blobs.items()]
    waste = [Waste(entry, reasons.get(key, "no model uses it")) for key, entry in found if key not in used]
    waste += [Waste(entry, "left behind by a writer that was killed", debris=True) for entry in census.debris]
    if quarantined:
        waste += [Waste(entry, "in quarantine") for entry in census.quarantine]
    now = time.time()
    old = tuple(each for each in waste if now - each.entry.modified >= grace)
    return PrunePlan(old, tuple(each.entry for each in waste if now - each.entry.modified < grace))


def run_prune(cache: Cache, plan: PrunePlan, census_again: Census) -> int:
    """Delete what the plan says, unless it is in use or younger by now; the number of bytes freed.

    `census_again` is a look at the cache taken after the plan was agreed to.
    """
    used = _keys_in_use(census_again)
    debris = {entry.key: entry for entry in census_again.debris}
    freed = 0
    for each in plan.waste:
        entry = each.entry
        now = debris.get(entry.key) if each.debris else cache.store.head(entry.key)
        if entry.key in used or now is None or now.modified > entry.modified:
            continue
        delete = cache.store.remove_debris if each.debris else cache.store.delete
        freed += entry.size if delete(entry.key) else 0
    return freed


def _keys_in_use(census: Census) -> set[str]:
    """The keys of every manifest, action and blob that a ref leads to; IntegrityError where that cannot be known."""
    broken = [model for model in census.models if model.cached is None]
    if broken:
        # What a damaged manifest leads to is not known, so all of it might be needed again.
        raise IntegrityError(
            f"{broken[0].ref} cannot be read, so what belongs to it is not known: {broken[0].problem}",
            f"convert it again, or forget it with `ttbert cache rm {broken[0].ref}`",
        )
    keys = {blob_key(blob) for blob in census.users}
    for digest, cached in census.manifests_in_use.items():
        keys |= {manifest_key(digest), action_key(cached.manifest.action)}
    return keys


def _reasons(cache: Cache, manifests: Iterable[Entry]) -> dict[str, str]:
    """For each unreferenced manifest, and what it alone leads to, the model it was."""
    reasons: dict[str, str] = {}
    for entry in manifests:
        try:
            manifest = Manifest.parse(cache.store.get(entry.key, 0, LARGEST + 1), entry.key)
        except (KeyError, IntegrityError, IncompatibleError):
            reasons[entry.key] = "a manifest that cannot be read and that no name leads to"
            continue
        commit = f"@{manifest.provenance.commit[:12]}" if manifest.provenance.commit else ""
        name = f"{manifest.provenance.repo}{commit}:{manifest.policy}"
        reasons[entry.key] = f"manifest of {name}, to which no name leads"
        for key in (action_key(manifest.action), *map(blob_key, manifest.blobs())):
            reasons.setdefault(key, f"of {name}, to which no name leads")
    return reasons
