"""One look over a whole cache, which every command that reports on it or prunes it works from.

Nothing here reads a tensor: refs, manifests and the listing of blobs are enough to say what is there, what belongs to what,
and what belongs to nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import CacheError, InputError
from . import refs
from .cache import Cache, Cached, blob_key
from .digest import Digest
from .refs import Ref, RefEntry
from .store import Entry


@dataclass(frozen=True)
class Model:
    """A ref with what it means; `problem` says why it cannot be loaded, if it cannot."""

    ref: Ref
    entry: RefEntry | None
    cached: Cached | None
    problem: str | None


@dataclass(frozen=True)
class Census:
    """Everything in a cache, at one moment."""

    models: tuple[Model, ...]
    blobs: dict[str, Entry]
    manifests: dict[str, Entry]
    actions: dict[str, Entry]
    quarantine: tuple[Entry, ...]
    debris: tuple[Entry, ...]

    @cached_property
    def manifests_in_use(self) -> dict[Digest, Cached]:
        """The manifests that refs lead to."""
        return {model.cached.digest: model.cached for model in self.models if model.cached}

    @cached_property
    def users(self) -> Counter[Digest]:
        """For each blob in use, how many manifests in use share it."""
        return Counter(blob for cached in self.manifests_in_use.values() for blob in cached.manifest.blobs())

    def own_size(self, cached: Cached) -> int:
        """Bytes of a manifest's blobs that no other manifest in use has: what removing it would free."""
        return sum(size for blob, size in cached.manifest.blobs().items() if self.users[blob] == 1)

    @property
    def size(self) -> int:
        """Bytes of everything stored."""
        found = [*self.blobs.values(), *self.manifests.values(), *self.actions.values(), *self.quarantine, *self.debris]
        return sum(entry.size for entry in found)


def take_census(cache: Cache) -> Census:
    """Look over a cache; an absent one is an empty one."""
    store = cache.store
    # Names first, then blobs: so a model that is published meanwhile cannot seem to lack them.
    read = filter(None, [_read(cache, ref) for ref in sorted(refs.list_refs(store), key=str)])
    blobs = {entry.key: entry for entry in store.list("blobs")}
    return Census(
        models=tuple(_look_for_blobs(model, blobs) for model in read),
        blobs=blobs,
        manifests={entry.key: entry for entry in store.list("manifests")},
        actions={entry.key: entry for entry in store.list("actions")},
        quarantine=tuple(store.list("quarantine")),
        debris=tuple(store.debris()),
    )


def find_model(census: Census, text: str) -> Model:
    """The one model that a ref, as `match_refs` takes it, or the beginning of a manifest's digest means; else InputError."""
    matching = refs.match_refs([model.ref for model in census.models], text)
    found = [model for model in census.models if model.ref in matching]
    if not found and len(text.removeprefix("blake3:")) >= 4:
        start = text.removeprefix("blake3:")
        found = [model for model in census.models if model.entry and model.entry.manifest.hex.startswith(start)]
    if not found:
        raise InputError(f"no model in the cache is called {text!r}", "see `ttbert cache ls`")
    if len(found) > 1:
        raise InputError(f"{text!r} could be {', '.join(str(model.ref) for model in found)}", "write the whole name")
    return found[0]


def _read(cache: Cache, ref: Ref) -> Model | None:
    """What a ref leads to; None for one that was removed just now."""
    entry = None
    try:
        entry = cache.read_ref(ref)
        if entry is None:
            return None
        return Model(ref, entry, cache.read_manifest(entry.manifest), None)
    except CacheError as error:
        return Model(ref, entry, None, error.message)


def _look_for_blobs(model: Model, blobs: dict[str, Entry]) -> Model:
    entries = model.cached.manifest.entries() if model.cached else ()
    absent = [each for each in entries if _size(blobs, each.blob) != each.size]
    if not absent:
        return model
    return replace(model, problem=f"{len(absent)} blobs missing or of a wrong size, {absent[0].name} first")


def _size(blobs: dict[str, Entry], digest: Digest) -> int | None:
    entry = blobs.get(blob_key(digest))
    return entry.size if entry else None
