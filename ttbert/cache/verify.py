"""Verifying a cache: is every stored byte what its name says, and is every model whole?

Damage is moved to quarantine on request and never deleted; converting the model again restores what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import CacheError, IntegrityError
from .cache import Cache, blob_key, manifest_key
from .census import Census, Model
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

    With `repair`, what is damaged is moved to quarantine. Progress is told of each object that was read.
    """
    owners = _owners(census, only)
    stored = {**census.blobs, **census.manifests}
    keys = sorted(stored) if only is None else sorted(key for key in owners if key in stored)
    findings = []
    for key in keys:
        problem = _check(cache, key)
        progress(stored[key])
        if problem:
            moved = cache.store.quarantine(key) if repair else None
            findings.append(Finding(key, problem, tuple(owners.get(key, ())), moved))
    findings += [Finding(key, "missing", tuple(models)) for key, models in owners.items() if key not in stored]
    findings += [
        Finding(model.ref.folder, model.problem or "its manifest cannot be read", (str(model.ref),))
        for model in ([only] if only else census.models)
        if model.cached is None and not any(str(model.ref) in finding.models for finding in findings)
    ]
    return Verdict(len(keys), sum(stored[key].size for key in keys), tuple(findings))


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
            Manifest.parse(cache.store.get(key), key)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (KeyError, IntegrityError) as error:
        return str(error)
    except CacheError as error:
        return error.message
    return None
