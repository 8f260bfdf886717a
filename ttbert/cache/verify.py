"""Verifying a cache: is every stored byte what its name says, and is every model whole?

Damage is moved to quarantine on request and never deleted; converting the model again restores what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import CacheError, IntegrityError
from .cache import Cache, blob_key, manifest_key
from .census import Census, Model
from .document import LARGEST
from .manifest import Manifest
from .store import Entry


@dataclass(frozen=True)
class Finding:
    """Something wrong: the object, what is wrong with it, the models that need it, and where it was moved to, if it was."""

    key: str
    problem: str
    models: tuple[str, ...]
    moved: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a verification read and what it found."""

    objects: int
    size: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return not self.findings


def verify(
    cache: Cache,
    census: Census,
    only: Model | None = None,
    repair: bool = False,
    progress: Callable[[Entry], None] = lambda entry: None,
) -> Verdict:
    """Read every blob and manifest, or those of one model, and compare their digests.

    With `repair`, what is damaged is moved to quarantine; what may not be read, cannot be reached, or was written by
    another version of ttbert is not. Progress is told of each object that was read.
    """
    owners = _owners(census, only)
    stored = entries_to_verify(census, only)
    findings = []
    for key in stored:
        finding = _examine(cache, key, tuple(owners.get(key, ())), repair)
        progress(stored[key])
        if finding:
            findings.append(finding)
    findings += [Finding(key, "missing", tuple(models)) for key, models in owners.items() if key not in stored]
    findings += [
        Finding(model.ref.folder, model.problem, (str(model.ref),))
        for model in ([only] if only else census.models)
        if model.problem and not any(str(model.ref) in finding.models for finding in findings)
    ]
    return Verdict(len(stored), sum(entry.size for entry in stored.values()), tuple(findings))


def entries_to_verify(census: Census, only: Model | None = None) -> dict[str, Entry]:
    """The blobs and manifests that a verification reads, in the order in which it does."""
    stored = {**census.blobs, **census.manifests}
    return {key: stored[key] for key in sorted(stored if only is None else _owners(census, only)) if key in stored}


def _owners(census: Census, only: Model | None) -> dict[str, list[str]]:
    """Key -> the models that need it."""
    owners: dict[str, list[str]] = {}
    for model in [only] if only else census.models:
        keys: Iterable[str] = []
        if model.entry:
            keys = [manifest_key(model.entry.manifest)]
        if model.cached:
            keys = [*keys, *map(blob_key, model.cached.manifest.blobs())]
        for key in keys:
            owners.setdefault(key, []).append(str(model.ref))
    return owners


def _examine(cache: Cache, key: str, models: tuple[str, ...], repair: bool) -> Finding | None:
    try:
        problem = _check(cache, key)
    except CacheError as error:  # unreadable, out of reach, or of another version: none of it is damage
        return Finding(key, error.message, models)
    if problem is None:
        return None
    moved = None
    if repair:
        with contextlib.suppress(KeyError):  # somebody else has just moved or deleted it
            moved = cache.store.quarantine(key)
    return Finding(key, problem, models, moved)


def _check(cache: Cache, key: str) -> str | None:
    """What is wrong with a stored object, if anything."""
    name = key.rpartition("/")[2]
    try:
        found = cache.hash(key)
        if found is None:
            return None  # deleted since the census
        if found[0].hex != name:
            return f"its digest is blake3:{found[0].short}..., {found[1]:,} bytes"
        if key.startswith("manifests/"):
            Manifest.parse(cache.store.get(key, 0, LARGEST + 1), key)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except KeyError:
        return None  # deleted meanwhile
    except IntegrityError as error:
        return error.message
    return None
