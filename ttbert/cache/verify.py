"""Verifying a cache: is every stored byte what its name says, and is every model whole?

Damage is moved to quarantine on request and never deleted. What is missing then comes back from the tier on this machine, if
there is a sound copy of it, or by converting the model again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..errors import CacheError, IncompatibleError, IntegrityError, NotCached
from .cache import Cache, blob_key, manifest_key
from .census import Census, Model
from .digest import blake3_of
from .document import LARGEST
from .manifest import Manifest
from .refs import entry_numbers, read_content
from .stores.store import Entry
from .trust import SIZE, find_signature_problem


@dataclass(frozen=True)
class Finding:
    """Something wrong: the object, what is wrong with it, the models that need it, and where it was moved to, if it was.

    `restored` if a sound copy took its place. `exit_code` is that of the error: 7 for damage, another one for what could not be
    looked at.
    """

    key: str
    problem: str
    models: tuple[str, ...]
    moved: str | None = None
    restored: bool = False
    exit_code: int = IntegrityError.exit_code


@dataclass(frozen=True)
class Verdict:
    """What a verification looked at and what it found."""

    objects: int
    size: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0, or that of the worst finding: damage counts more than what could not be looked at."""
        codes = [finding.exit_code for finding in self.findings]
        return IntegrityError.exit_code if IntegrityError.exit_code in codes else max(codes, default=0)


def verify(
    cache: Cache,
    census: Census,
    only: Model | None = None,
    repair: bool = False,
    progress: Callable[[Entry], None] = lambda entry: None,
) -> Verdict:
    """Read every blob and manifest, or those of one model, and compare their digests; and check the signatures of them.

    What is looked at is the shared store, of which `census` must be. With `repair`, what is damaged there, and the same at a
    second look, is moved to quarantine, and it and what is missing is restored from the local tier; what may not be read,
    cannot be reached, or was written by another version of ttbert is left alone. Progress is told of each object that was read.
    NotCached where there is no cache.
    """
    owners, stored = _owners(census, only), entries_to_verify(cache, census, only)
    findings = []
    for key, entry in stored.items():
        finding = _examine(cache, key, tuple(owners.get(key, ())), repair)
        progress(entry)
        if finding:
            findings.append(finding)
    verdict = _verdict(census, only, stored, findings)
    if not repair:
        return verdict
    return replace(verdict, findings=tuple(_restored(cache, finding) for finding in verdict.findings))


def survey(cache: Cache, census: Census, only: Model | None = None) -> Verdict:
    """Compare the sizes of blobs with those in the manifests, and read none of them. NotCached where there is no cache.

    It takes a listing, and finds what is missing or cut off, but not changed bytes. It moves nothing: a size that differs
    from a manifest's may be the manifest's fault.
    """
    owners, stored = _owners(census, only), entries_to_verify(cache, census, only)
    expected = {key: size for model in census.models for key, size in _blobs(model).items()}
    expected |= {key: SIZE for key in stored if _is_signature(key)}
    findings = [
        Finding(key, f"it has {entry.size:,} bytes, not {expected[key]:,}", tuple(owners.get(key, ())))
        for key, entry in stored.items()
        if entry.size != expected.get(key, entry.size)
    ]
    return _verdict(census, only, stored, findings)


def _verdict(census: Census, only: Model | None, stored: dict[str, Entry], found: list[Finding]) -> Verdict:
    """The whole of what was found, with what is missing and the models that cannot be loaded for another reason."""
    missing = [Finding(key, "missing", tuple(models)) for key, models in _owners(census, only).items() if key not in stored]
    named = {name for finding in (*found, *missing) for name in finding.models}
    models = [only] if only else census.models
    others = [
        Finding(model.ref.folder, model.problem, (str(model.ref),))
        for model in models
        if model.problem and str(model.ref) not in named
    ]
    return Verdict(len(stored), sum(entry.size for entry in stored.values()), (*found, *missing, *others))


def entries_to_verify(cache: Cache, census: Census, only: Model | None = None) -> dict[str, Entry]:
    """The blobs, manifests and signatures that a verification looks at, in order.

    NotCached where there is no cache, such as in a folder on which no disk is mounted.
    """
    signatures = {entry.key: entry for entry in census.below("signatures")}
    stored = {**census.blobs, **census.manifests, **signatures}
    if not census.entries:
        raise NotCached(f"there is no cache in {cache.store.url}", "see `ttbert cache info`; is something not mounted?")
    if only is None:
        return {key: stored[key] for key in sorted(stored)}
    signed = tuple(_signed_of(cache, only)) if signatures else ()
    wanted = {*_owners(census, only), *(key for key in signatures if key.startswith(signed))}
    return {key: stored[key] for key in sorted(wanted) if key in stored}


def _signed_of(cache: Cache, model: Model) -> Iterator[str]:
    """The folders of the signatures of a model's manifest and of the entries of its name."""
    if model.entry:
        yield f"signatures/manifest/{model.entry.manifest.hex}/"
    for number in entry_numbers(cache.store, model.ref):
        with contextlib.suppress(KeyError):  # deleted just now
            yield f"signatures/ref/{blake3_of(read_content(cache.store, model.ref, number)).hex}/"


def _owners(census: Census, only: Model | None) -> dict[str, list[str]]:
    """Key -> the models that need it."""
    owners: dict[str, list[str]] = {}
    for model in [only] if only else census.models:
        manifest = [manifest_key(model.entry.manifest)] if model.entry else []
        for key in (*manifest, *_blobs(model)):
            owners.setdefault(key, []).append(str(model.ref))
    return owners


def _blobs(model: Model) -> dict[str, int]:
    """The keys of a model's blobs, with their sizes."""
    return {blob_key(blob): size for blob, size in model.cached.manifest.blobs().items()} if model.cached else {}


def _examine(cache: Cache, key: str, models: tuple[str, ...], repair: bool) -> Finding | None:
    try:
        problem = _check(cache, key)
    except CacheError as error:  # unreadable, out of reach, or of another version: none of it is damage
        return Finding(key, error.message, models, exit_code=error.exit_code)
    if problem is None:
        return None
    if not repair:
        return Finding(key, problem, models)
    moved = None
    try:
        if _check(cache, key) != problem:
            return Finding(key, f"{problem}; at a second look it is not so: it is damaged on its way here, and stays", models)
        with contextlib.suppress(KeyError):  # somebody else has just moved or deleted it
            moved = cache.store.quarantine(key)
    except CacheError as error:
        return Finding(key, f"{problem}; it stays: {error.message}", models)
    return Finding(key, problem, models, moved)


def _restored(cache: Cache, finding: Finding) -> Finding:
    """A finding after a sound copy of this machine, if there is one, was put in the place of what is not there."""
    key = finding.key
    if cache.near is None:
        return finding
    try:
        if cache.store.head(key) is not None or not _is_sound(key, content := cache.near.store.get(key)):
            return finding
        cache.store.put(key, content)
    except (KeyError, CacheError):  # not here, or it cannot be read, or not be written there
        return finding
    return replace(finding, restored=True)


def _check(cache: Cache, key: str) -> str | None:
    """What is wrong with a stored object, if anything."""
    try:
        if _is_signature(key):
            return find_signature_problem(key, cache.store.get(key, 0, SIZE + 1))
        found = cache.hash(key)
        if found is None or isinstance(found, str):
            return found  # None: deleted since the census
        if found[0].hex != _name(key):
            return f"its digest is blake3:{found[0].short}..., {found[1]:,} bytes"
        if key.startswith("manifests/"):
            Manifest.parse(cache.store.get(key, 0, LARGEST + 1), key)
    except KeyError:
        return None  # deleted meanwhile
    except IntegrityError as error:
        return error.message
    return None


def _is_sound(key: str, content: bytes) -> bool:
    if not _is_signature(key):
        return blake3_of(content).hex == _name(key)
    try:
        return find_signature_problem(key, content) is None
    except IncompatibleError:
        return False


def _is_signature(key: str) -> bool:
    return key.startswith("signatures/")


def _name(key: str) -> str:
    return key.rpartition("/")[2]
