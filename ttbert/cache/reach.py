"""What refs lead to, key by key: what a collection of garbage must leave alone, and what it may touch."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import CacheError
from .cache import Cache, keys_of, manifest_key
from .census import Census, Model
from .condemned import Condemned, CondemnedRef
from .refs import Ref, read_meanings

OWN = ("manifests", "actions", "blobs")
"""The folders of what refs lead to. In this order it is deleted: so nothing found leads to what is gone."""


def keys_in_use(cache: Cache, census: Census, keep_last: int = 1) -> dict[str, set[str]]:
    """For the folder of each ref the keys that it leads to, in its last `keep_last` meanings."""
    return {model.ref.folder: _keys_of_model(cache, model, keep_last) for model in census.models}


def union(keys: Mapping[str, set[str]]) -> set[str]:
    return set().union(*keys.values())


class Scope:
    """What a collection may touch: everything, or what certain refs lead to or once led to."""

    def __init__(self, cache: Cache, only: tuple[Ref, ...]) -> None:
        self._keys = {key for ref in only for key in (ref.folder, *_keys_of_history(cache, ref))} if only else None

    def has(self, key: str) -> bool:
        """Whether a key, or the folder of a ref, is in it."""
        return self._keys is None or key in self._keys


def find_unused(ref: CondemnedRef, record: Condemned, census: Census) -> Ref | None:
    """The ref that was condemned, if it is there, and was neither moved nor its model used since."""
    model = census.by_folder.get(ref.folder)
    if model is None or census.newest(ref.folder) != ref.number or census.last_used(model) >= record.since:
        return None
    return model.ref


def _keys_of_model(cache: Cache, model: Model, keep_last: int) -> set[str]:
    keys = keys_of(model.cached) if model.cached else set()
    return keys if keep_last == 1 else keys | _keys_of_history(cache, model.ref, keep_last)


def _keys_of_history(cache: Cache, ref: Ref, last: int | None = None) -> set[str]:
    """The keys that a ref led to in its last meanings; of a manifest that cannot be read, only its own."""
    manifests = []
    for entry in read_meanings(cache.store, ref):
        if entry.manifest not in manifests:
            manifests.append(entry.manifest)
    keys: set[str] = set()
    for digest in manifests[:last]:
        try:
            keys |= keys_of(cache.read_outline(digest))
        except CacheError:
            keys.add(manifest_key(digest))
    return keys
