"""One look over a whole cache, which every command that reports on it or prunes it works from.

Nothing here reads a tensor: refs, manifests and the listing of blobs are enough to say what is there, what belongs to what,
and what belongs to nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property, partial

from ..errors import CacheError, InputError, NotCached
from ..frozen import Frozen
from . import refs
from .cache import Cache, Outlined, blob_key
from .digest import Digest
from .refs import Ref, RefEntry, entry_key, parse_key
from .stores.store import Entry
from .used import last_used

SLIP = "is something not mounted, or is there a slip of the pen?"
"""What to ask oneself where a cache is not there, or begins."""

_SHORTEST = 4
"""Characters of a digest that can stand for all of it."""

_BY_DIGEST = r"([0-9a-f]{2})/\1[0-9a-f]{62}"
_NAMES = {
    folder: re.compile(f"{folder}/{name}")
    for folder, name in {
        "blobs": _BY_DIGEST,
        "manifests": _BY_DIGEST,
        "actions": _BY_DIGEST,
        "gc": "(?:[0-9a-f]{32}|clock)/.+",
        "probes": "[0-9a-f]{32}",
        "leases": "(?:[0-9a-f]{64}|clock)/.+",
        "quarantine": ".+@[0-9]+",
    }.items()
}
"""The names that objects are given. Other programs have folders that are called blobs or manifests, too. Names in refs,
signatures and used are looked at where they are read."""

_LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc).timestamp()


class Model(Frozen):
    """A ref with what it means; `problem` says why it cannot be loaded, if it cannot."""

    ref: Ref
    entry: RefEntry | None
    cached: Outlined | None
    problem: str | None


class Census(Frozen):
    """Everything in a cache, at one moment."""

    url: str
    models: tuple[Model, ...]
    entries: dict[str, Entry]
    """Every object by its key, in the order of the keys."""
    find_debris: Callable[[], Iterable[Entry]]
    """As of a store; asked once, and only where that matters, since it looks through every folder again."""

    @property
    def is_there(self) -> bool:
        """Whether a cache is there, be it one that is just begun. Files of others make none."""
        return bool(self.histories) or any(map(self.below, ("blobs", "manifests", "actions", "leases", "gc", "quarantine")))

    @cached_property
    def debris(self) -> tuple[Entry, ...]:
        return tuple(self.find_debris())

    @cached_property
    def blobs(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.below("blobs")}

    @cached_property
    def manifests(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.below("manifests")}

    @cached_property
    def actions(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.below("actions")}

    @cached_property
    def led_to(self) -> dict[str, Entry]:
        """Everything that refs can lead to: manifests, then actions, then blobs."""
        return {**self.manifests, **self.actions, **self.blobs}

    @cached_property
    def by_folder(self) -> dict[str, Model]:
        """The models by the folders of their refs."""
        return {model.ref.folder: model for model in self.models}

    @property
    def quarantine(self) -> tuple[Entry, ...]:
        return self.below("quarantine")

    def below(self, folder: str) -> tuple[Entry, ...]:
        """The objects in a folder at the top, such as `blobs`; what others put there is none, and is left alone."""
        entries, names = self._by_folder.get(folder, ()), _NAMES.get(folder)
        return tuple(entry for entry in entries if names.fullmatch(entry.key)) if names else entries

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """For each folder at the top the number of its objects and their bytes.

        Temporary files count as `temporary`, and what is in no folder, which is nothing of ours, as `.`.
        """
        found = {folder: (len(entries), sum(each.size for each in entries)) for folder, entries in self._by_folder.items()}
        return found | {"temporary": (len(self.debris), sum(entry.size for entry in self.debris))}

    @cached_property
    def _by_folder(self) -> dict[str, tuple[Entry, ...]]:
        folders: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            folder, slash, _ = entry.key.partition("/")
            folders.setdefault(folder if slash else ".", []).append(entry)
        return {folder: tuple(entries) for folder, entries in folders.items()}

    @cached_property
    def manifests_in_use(self) -> dict[Digest, Outlined]:
        """The manifests that refs lead to."""
        return {model.cached.digest: model.cached for model in self.models if model.cached}

    @cached_property
    def users(self) -> Counter[Digest]:
        """For each blob in use, how many manifests in use share it."""
        return Counter(blob for cached in self.manifests_in_use.values() for blob in cached.manifest.blobs)

    def own_size(self, cached: Outlined) -> int:
        """Bytes of a manifest's blobs that no other manifest in use has: what removing it would free."""
        return sum(size for blob, size in cached.manifest.blobs.items() if self.users[blob] == 1)

    @property
    def size(self) -> int:
        """Bytes of everything stored, temporary files included."""
        return sum(size for _, size in self.sizes.values())

    def newest(self, folder: str) -> int:
        """The number of a ref's newest entry."""
        return max(self.histories.get(folder, ()), default=0)

    def last_used(self, model: Model) -> float:
        """When a model was last loaded or converted, to the day, or named; in seconds since the epoch."""
        folder = model.ref.folder
        named = self.entries.get(entry_key(model.ref, self.newest(folder)))
        loaded = self._stamps.get(model.entry.manifest, 0.0) if model.entry else 0.0
        return max(loaded, named.modified if named else 0.0)

    def last_day(self, model: Model) -> str:
        """The day until whose end that is, in UTC, as 2026-11-27; the last one of all where a file's age is out of range."""
        return f"{datetime.fromtimestamp(min(self.last_used(model) - 1, _LAST_SECOND), timezone.utc):%Y-%m-%d}"

    @cached_property
    def histories(self) -> dict[str, list[int]]:
        """The numbers of each ref's entries, in order, by the folder of the ref; also of refs that were removed."""
        found: dict[str, list[int]] = {}
        for entry in self.below("refs"):
            if parsed := parse_key(entry.key):
                ref, number = parsed
                found.setdefault(ref.folder, []).append(number)
        return {folder: sorted(numbers) for folder, numbers in found.items()}

    @cached_property
    def _stamps(self) -> dict[Digest, float]:
        return last_used(self.below("used"))


def take_census(cache: Cache) -> Census:
    """Look over a cache; an absent one is an empty one."""
    store = cache.store
    # Names first, then blobs: so a model that is published meanwhile cannot seem to lack them.
    read = [*filter(None, store.map(partial(_read, cache), sorted(refs.list_refs(store), key=str)))]
    entries = {entry.key: entry for entry in store.list()}
    return Census(store.url, tuple(_look_for_blobs(model, entries) for model in read), entries, store.debris)


def require_cache(census: Census) -> None:
    """NotCached where there is no cache, such as in a folder on which no disk is mounted, or above the right one."""
    if not census.is_there:
        raise NotCached(
            f"there is no cache in {census.url}",
            f"see `ttbert cache info`; {SLIP}",
        )


def find_model(census: Census, text: str, listing: str = "ttbert cache ls") -> Model:
    """The one model that a ref, as `match_refs` takes it, or the beginning of a manifest's digest means.

    Else InputError, which names the command that lists what there is; NotCached where there is no cache.
    """
    require_cache(census)
    matching = refs.match_refs([model.ref for model in census.models], text)
    found = [model for model in census.models if model.ref in matching]
    start = text.removeprefix("blake3:")
    if not found and len(start) >= _SHORTEST:
        found = [model for model in census.models if model.entry and model.entry.manifest.hex.startswith(start)]
    if not found:
        raise InputError(
            f"no model in the cache is called {text!r}",
            f"see `{listing}`; of a digest, give {_SHORTEST} characters at least",
        )
    if len(found) > 1:
        raise InputError(f"{text!r} could be {', '.join(str(model.ref) for model in found)}", "write the whole name")
    return found[0]


def look_up(cache: Cache, text: str) -> Model:
    """As `find_model`; where this is the name of one model, and that is whole, nothing else in the cache is looked at."""
    alike = refs.match_refs(refs.list_refs(cache.store), text)
    model = _read(cache, alike[0]) if len(alike) == 1 else None
    if model is None or model.cached is None or cache.missing(model.cached.manifest):
        return find_model(take_census(cache), text)
    return model


def _read(cache: Cache, ref: Ref) -> Model | None:
    """What a ref leads to; None for one that was removed just now."""
    entry = None
    try:
        entry = cache.read_ref(ref)
        if entry is None:
            return None
        return Model(ref, entry, cache.read_outline(entry.manifest), None)
    except CacheError as error:
        return Model(ref, entry, None, error.message)


def _look_for_blobs(model: Model, blobs: dict[str, Entry]) -> Model:
    entries = model.cached.manifest.entries() if model.cached else ()
    absent = [each for each in entries if _size(blobs, each.blob) != each.size]
    if not absent:
        return model
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return replace(model, problem=f"missing or of a wrong size: {absent[0].name}{more}")


def _size(blobs: dict[str, Entry], digest: Digest) -> int | None:
    entry = blobs.get(blob_key(digest))
    return entry.size if entry else None
