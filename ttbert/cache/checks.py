"""What is wrong with a stored object, if anything: each kind is held against what its name, or another object, says of it.

Blobs and manifests are named by their digests, and a signature by what it signs. An action leads to a manifest, and that says
of which action it is. The digest of an entry in a name's history is in the entry after it. One that cannot be read, but has
that digest, was damaged already when the next was written, by a conversion or by `cache rm`: that is no damage any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from functools import cached_property

from ..errors import CacheError, IncompatibleError, IntegrityError
from .cache import Cache, manifest_key, parse_action
from .census import Census
from .condemned import FOLDER, read_record, record_names
from .digest import blake3_of
from .document import LARGEST
from .manifest import Manifest
from .refs import LARGEST_ENTRY, LogEntry, Ref, entry_key, parse_entry, parse_key
from .stores.store import read_twice
from .trust import SIZE, find_signature_problem

_ORDER = ("blobs", "manifests", "actions", "refs", "signatures")
"""The folders of what can be checked: a manifest before the action that leads to it."""


class Checks:
    """Checks of the objects in one store, to be made in the order that `in_order` gives."""

    def __init__(self, cache: Cache, census: Census, careful: bool = False) -> None:
        """`careful`: read what no digest protects until two readings agree, for whoever moves what is damaged."""
        self._cache, self._store, self._census, self._careful = cache, cache.store, census, careful
        self._actions = {digest: cached.manifest.action for digest, cached in census.manifests_in_use.items()}
        self._named = {manifest_key(model.entry.manifest) for model in census.models if model.entry}
        self._condemned: dict[str, set[str]] = {}
        self._ahead: dict[str, bytes | Exception] = {}
        self._after: dict[str, LogEntry] = {}
        """Key of an entry of a history, there or not -> the entry after it, if that can be read."""

    def read_ahead(self, keys: Collection[str]) -> None:
        """Read these documents now, of a store in a network several at once, for `find_problem`."""

        def read(key: str) -> bytes | Exception:
            try:
                return self._read(key)
            except (KeyError, CacheError) as error:
                return error

        self._ahead = dict(zip(keys, self._store.map(read, keys), strict=True))

    def find_problem(self, key: str) -> str | None:
        """What is wrong with it, if anything. CacheError where it cannot be looked at, or is of another version of ttbert."""
        try:
            return self._find_problem(key)
        except KeyError:
            return None  # deleted meanwhile
        except IntegrityError as error:
            return error.message.removeprefix(f"{self._store.url}/").removeprefix(f"{key}: ")

    def is_sound(self, key: str, content: bytes) -> bool:
        """Whether these bytes, found elsewhere, may be stored there in place of what is damaged or missing."""
        if key.startswith("refs/"):
            after = self._after.get(key)
            return after is not None and after.before == blake3_of(content)
        try:
            if key.startswith("actions/"):
                action = self._actions.get(parse_action(content, key))
                return action is not None and action.hex == _name(key)
            if is_signature(key):
                return find_signature_problem(key, content) is None
        except (IntegrityError, IncompatibleError):
            return False
        return blake3_of(content).hex == _name(key)

    def may_move(self, key: str) -> bool:
        """Whether it can be moved away and nothing else changes: without its last entry, a name would mean something else."""
        entry = parse_key(key)
        return entry is None or entry[1] < self._census.newest(entry[0].folder)

    def lost(self) -> list[str]:
        """The entries of histories that are not there, though the ones after them name them."""
        return [key for key in sorted(self._after) if key not in self._census.entries and self._store.head(key) is None]

    def advice(self, key: str) -> str:
        """What damage of an action or of a history means, and what to do about it; empty for everything else."""
        if key.startswith("actions/"):
            refs = self._converted.get(_name(key), ())
            of = ", ".join(map(str, refs)) or "no name that can be read"
            if all(ref.revision for ref in refs):
                return f"of {of}: loading does not need it; the next conversion is done anew and replaces it"
            # A folder is known by its content alone.
            return f"of {of}: a folder is not found without it; the next run or conversion converts it anew and replaces it"
        entry = parse_key(key)
        if entry is None:
            return ""
        if self.may_move(key):
            return f"{entry[0]} means what its last entry says all the same; see `ttbert cache log {entry[0]}`"
        return f"{entry[0]} cannot be used until it is converted again, or forgotten by `ttbert cache rm {entry[0]}`"

    @cached_property
    def _converted(self) -> dict[str, list[Ref]]:
        """The names of models by the digests of their actions."""
        names: dict[str, list[Ref]] = {}
        for model in self._census.models:
            if model.cached:
                names.setdefault(model.cached.manifest.action.hex, []).append(model.ref)
        return names

    def _find_problem(self, key: str) -> str | None:
        if is_signature(key):
            return find_signature_problem(key, self._store.get(key, 0, SIZE + 1))
        if key.startswith("actions/"):
            return self._problem_of_action(key, self._read(key))
        entry = parse_key(key)
        if entry:
            return self._problem_of_entry(key, *entry)
        found = self._cache.hash(key)
        if found is None or isinstance(found, str):
            return found  # None: deleted since the census
        if found[0].hex != _name(key):
            return f"its digest is blake3:{found[0].short}..., {found[1]:,} bytes"
        if key.startswith("manifests/"):
            self._actions[found[0]] = Manifest.parse(self._store.get(key, 0, LARGEST + 1), key).action
        return None

    def _problem_of_action(self, key: str, content: bytes) -> str | None:
        digest = parse_action(content, key)
        manifest = manifest_key(digest)
        if manifest in self._census.manifests or self._store.head(manifest):
            action = self._actions.get(digest)  # None: the manifest cannot be read, or is newer than the census
            wrong = action is not None and action.hex != _name(key)
            return f"it leads to manifest {digest.short}, which is of another action" if wrong else None
        # What a name leads to is told as missing itself; what is condemned is being deleted, the manifests first.
        if manifest in self._named or self._is_condemned(key) or self._store.head(key) is None:
            return None
        return f"it leads to manifest {digest.short}, which is not there"

    def _problem_of_entry(self, key: str, ref: Ref, number: int) -> str | None:
        content = self._read(key)
        after = self._after.get(key)
        as_named = after is not None and after.before == blake3_of(content)
        try:
            entry = parse_entry(self._store, ref, number, content)
        except (IntegrityError, IncompatibleError):
            if as_named:
                return None
            raise
        if after and not as_named:  # so what it says of the one before it counts for nothing
            return f"it is not what entry {number + 1} says it was, which does not follow it"
        if number > 1:
            self._after[entry_key(ref, number - 1)] = entry
        return None

    def _is_condemned(self, key: str) -> bool:
        names = record_names(self._store.list(FOLDER))
        for name in set(names) - self._condemned.keys():
            with contextlib.suppress(IntegrityError, IncompatibleError):
                record = read_record(self._store, name)
                self._condemned[name] = record.keys if record else set()
        return any(key in self._condemned.get(name, ()) for name in names)

    def _read(self, key: str) -> bytes:
        ahead = self._ahead.pop(key, None)
        if isinstance(ahead, Exception):
            raise ahead
        if ahead is not None:
            return ahead
        length = LARGEST_ENTRY + 1
        return read_twice(self._store, key, length) if self._careful else self._store.get(key, 0, length)


def is_named_by_digest(key: str) -> bool:
    return key.startswith(("blobs/", "manifests/"))


def is_document(key: str) -> bool:
    """Whether it is an action or an entry of a history, which nothing in its own name tells to be sound."""
    return key.startswith(("actions/", "refs/"))


def is_signature(key: str) -> bool:
    return key.startswith("signatures/")


def in_order(keys: Iterable[str]) -> list[str]:
    """A manifest before the action that leads to it, and an entry of a history before the one that it names."""
    folders: dict[str, list[str]] = {folder: [] for folder in _ORDER}
    for key in sorted(keys):
        folders[key.partition("/")[0]].append(key)
    # A number of nine digits is more than any of eight.
    folders["refs"].sort(key=lambda key: (key.rpartition("/")[0], len(key), key), reverse=True)
    return [key for keys in folders.values() for key in keys]


def _name(key: str) -> str:
    return key.rpartition("/")[2]
