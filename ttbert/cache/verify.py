"""Verifying a cache: is every stored byte what its name says, and is every model whole?

Damage is moved to quarantine on request and never deleted. What is missing then comes back from the tier on this machine, if
there is a sound copy of it, or by converting the model again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from ..errors import CacheError, IntegrityError
from ..frozen import Frozen
from ..threads import map_ahead
from .cache import Cache, action_key, blob_key, manifest_key
from .census import Census, Model, require_cache
from .checks import Checks, in_order, is_document, is_named_by_digest, is_signature
from .digest import blake3_of
from .refs import entry_numbers, key_in, read_content
from .stores.store import Entry
from .trust import SIZE


class Finding(Frozen):
    """Something wrong: the object, what is wrong with it, the models that need it, and where it was moved to, if it was.

    `restored` if a sound copy took its place. `exit_code` is that of the error: 7 for damage, another one for what could not be
    looked at, 0 for what harms no model and that nobody can mend. `advice` says of an action, or of an entry of a history, what
    model it is of, what this means, and what to do.
    """

    key: str
    problem: str
    models: tuple[str, ...] = ()
    moved: str | None = None
    restored: bool = False
    exit_code: int = IntegrityError.exit_code
    advice: str = ""

    @property
    def is_damage(self) -> bool:
        """Rather than out of reach, of another version, or of no harm."""
        return self.exit_code == IntegrityError.exit_code

    @property
    def is_movable(self) -> bool:
        """Whether a repair moves it: not the last entry of a name, which alone of a history a model needs."""
        return self.is_damage and not (self.key.startswith("refs/") and self.models)


class Verdict(Frozen):
    """What a verification looked at and what it found."""

    objects: int
    size: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        return self.exit_code == 0

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
    """Read every blob and document, or those of one model, and check them as `checks` says.

    What is looked at is the shared store, of which `census` must be. With `repair`, what is damaged there, and the same at a
    second look, is moved to quarantine, and it and what is missing is restored from the local tier; what may not be read,
    cannot be reached, or was written by another version of ttbert is left alone. Progress is told of each object that was read.
    NotCached where there is no cache.
    """
    stored = entries_to_verify(cache, census, only)
    checks = Checks(cache, census, careful=repair)
    findings = []
    with closing(_examined(cache, checks, stored, repair)) as examined:
        for entry, finding in zip(stored.values(), examined, strict=True):
            if finding:
                findings.append(finding)
            progress(entry)
    verdict = _verdict(census, only, stored, [*findings, *_lost(checks)])
    if not repair:
        return verdict
    return replace(verdict, findings=tuple(_restored(cache, checks, finding) for finding in verdict.findings))


def survey(cache: Cache, census: Census, only: Model | None = None) -> Verdict:
    """Compare the sizes of blobs with those in the manifests, and read none of them. NotCached where there is no cache.

    It takes a listing, and finds what is missing or cut off, but not changed bytes; actions and the histories of names, which
    are small, are read. It moves nothing: a size that differs from a manifest's may be the manifest's fault.
    """
    stored = entries_to_verify(cache, census, only)
    wrong = {key: SIZE for key, entry in stored.items() if is_signature(key) and entry.size != SIZE}
    for model in census.models:
        wrong |= {key: size for key, size in _blobs(model) if key in stored and stored[key].size != size}
    findings = [Finding(key, f"it has {stored[key].size:,} bytes, not {size:,}") for key, size in wrong.items()]
    checks = Checks(cache, census)
    small = [key for key in stored if is_document(key)]
    read = list(_examined(cache, checks, small, repair=False))
    return _verdict(census, only, stored, [*findings, *filter(None, read), *_lost(checks)])


def _verdict(census: Census, only: Model | None, stored: dict[str, Entry], found: list[Finding]) -> Verdict:
    """The whole of it: what was found, and what is missing, with the models that need it, and models with other problems."""
    models = [only] if only else census.models
    missing = dict.fromkeys(key for model in models for key in _needed(census, model) if key not in stored)
    found = [*sorted(found, key=lambda finding: finding.key), *(Finding(key, "missing") for key in missing)]
    owners: dict[str, list[str]] = {finding.key: [] for finding in found}
    for model in models:
        for key in _needed(census, model):
            if key in owners:
                owners[key].append(str(model.ref))
    named = {name for names in owners.values() for name in names}
    others = [
        Finding(model.ref.folder, model.problem, (str(model.ref),))
        for model in models
        if model.problem and str(model.ref) not in named
    ]
    findings = (*(replace(finding, models=tuple(owners[finding.key])) for finding in found), *others)
    return Verdict(len(stored), sum(entry.size for entry in stored.values()), findings)


def entries_to_verify(cache: Cache, census: Census, only: Model | None = None) -> dict[str, Entry]:
    """The blobs, manifests, actions, histories and signatures that a verification looks at, in the order of `checks`.

    NotCached where there is no cache, such as in a folder on which no disk is mounted.
    """
    signatures = {entry.key: entry for entry in census.below("signatures")}
    histories = {key_in(folder, number): folder for folder, numbers in census.histories.items() for number in numbers}
    stored = {**census.led_to, **signatures, **{key: census.entries[key] for key in histories}}
    require_cache(census)
    if only is None:
        return {key: stored[key] for key in in_order(stored)}
    signed = tuple(_signed_of(cache, only)) if signatures else ()
    wanted = {*_needed(census, only), *(key for key in signatures if key.startswith(signed))}
    wanted |= {key for key, folder in histories.items() if folder == only.ref.folder}
    wanted |= {action_key(only.cached.manifest.action)} if only.cached else set()
    return {key: stored[key] for key in in_order(wanted & stored.keys())}


def _signed_of(cache: Cache, model: Model) -> Iterator[str]:
    """The folders of the signatures of a model's manifest and of the entries of its name."""
    if model.entry:
        yield f"signatures/manifest/{model.entry.manifest.hex}/"
    for number in entry_numbers(cache.store, model.ref):
        with contextlib.suppress(KeyError):  # deleted just now
            yield f"signatures/ref/{blake3_of(read_content(cache.store, model.ref, number)).hex}/"


def _needed(census: Census, model: Model) -> Iterator[str]:
    """The keys of what a model cannot be without: the last entry of its name, its manifest, its blobs."""
    yield key_in(model.ref.folder, census.newest(model.ref.folder))
    if model.entry:
        yield manifest_key(model.entry.manifest)
    yield from (key for key, _ in _blobs(model))


def _blobs(model: Model) -> Iterator[tuple[str, int]]:
    """The keys of a model's blobs, with their sizes."""
    for blob, size in model.cached.manifest.blobs.items() if model.cached else ():
        yield blob_key(blob), size


def _examined(cache: Cache, checks: Checks, keys: Collection[str], repair: bool) -> Generator[Finding | None, None, None]:
    """What is wrong with each object, if anything; `keys` are in the order of `checks`."""
    examine = partial(_examine, cache, checks, repair=repair)
    # What is named by its digest can be told of alone; so several are read at once.
    alone = filter(is_named_by_digest, keys)
    yield from map_ahead(cache.store.streams, examine, alone)
    others = [key for key in keys if not is_named_by_digest(key)]
    checks.read_ahead([key for key in others if is_document(key)])
    yield from map(examine, others)


def _examine(cache: Cache, checks: Checks, key: str, repair: bool) -> Finding | None:
    try:
        problem = checks.find_problem(key)
    except CacheError as error:  # unreadable, out of reach, or of another version: none of it is damage
        return Finding(key, error.message, exit_code=error.exit_code, advice=checks.advice(key))
    if problem is None:
        return None
    found = Finding(key, problem, advice=checks.advice(key))
    if not repair or not checks.may_move(key):
        return found
    moved = None
    try:
        if checks.find_problem(key) != problem:
            return replace(found, problem=f"{problem}; at a second look it is not so: it is damaged on its way here, and stays")
        with contextlib.suppress(KeyError):  # somebody else has just moved or deleted it
            moved = cache.store.quarantine(key)
    except CacheError as error:
        return replace(found, problem=f"{problem}; it stays: {error.message}")
    return replace(found, moved=moved)


def _lost(checks: Checks) -> list[Finding]:
    """Entries that are gone from the middle of a history: nobody needs them to use a model, or can make them again."""
    return [Finding(key, "gone; the entry after it is there", exit_code=0, advice=checks.advice(key)) for key in checks.lost()]


def _restored(cache: Cache, checks: Checks, finding: Finding) -> Finding:
    """A finding after a sound copy of this machine, if there is one, was put in the place of what is not there."""
    key = finding.key
    if cache.near is None:
        return finding
    try:
        if cache.store.head(key) is not None or not checks.is_sound(key, content := cache.near.store.get(key)):
            return finding
        cache.store.put(key, content)
    except (KeyError, CacheError):  # not here, or it cannot be read, or not be written there
        return finding
    return replace(finding, restored=True)
