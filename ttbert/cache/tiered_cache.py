"""A cache in two tiers: the shared store, which is what counts, and a local one in front of it.

Names are asked of the shared store, and so is everything that is published. Manifests and blobs are named by their
content, so a copy here that has the right digest is as good as the one there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from ..errors import CacheError, IntegrityError, StoreReadOnly, UntrustedError
from . import refs
from .blob import Blob
from .cache import Begin, Cache, Cached, Outlined, action_entry, action_key, blob_key, manifest_key, silently
from .counters import Counters
from .digest import Digest
from .local_tier import LocalTier
from .manifest import FileEntry, Manifest, Outline, PackEntry, TensorEntry
from .refs import Ref
from .space import require_space
from .stores.local import LocalStore, how_to_free
from .stores.store import Store
from .transfer import copy_history
from .trust import Trust, copy_signatures


class TieredCache(Cache):
    """The cache at `store`, read through a folder on this machine."""

    def __init__(
        self,
        store: Store,
        near: LocalStore,
        trust: Trust | None = None,
        accept_weak: bool = False,
        counters: Counters | None = None,
    ) -> None:
        super().__init__(store, trust, accept_weak, counters)
        self._near = Cache(near, trust)
        self._authority = Cache(store, self.trust, accept_weak, self.counters)
        self._tier = LocalTier(near, store, self.counters)

    @property
    def near(self) -> Cache:
        return self._near

    @property
    def drafts(self) -> None:
        return None  # of what is published, a copy is kept here

    @property
    def authority(self) -> Cache:
        return self._authority

    def load(self, entry: FileEntry) -> bytes:
        while True:
            with self.open(entry) as stream:
                try:
                    return self._read_file(stream, entry)
                except IntegrityError as error:
                    self._discard(entry, stream, error)

    def load_pack(self, pack: PackEntry, start: int = 0) -> Iterator[tuple[TensorEntry, Blob]]:
        while True:
            with self.open(pack) as stream:
                try:
                    for each in self._read_pack(stream, pack, start):
                        start += 1
                        yield each
                    return
                except IntegrityError as error:
                    self._discard(pack, stream, error)

    def open(self, entry: PackEntry | FileEntry) -> BinaryIO:
        try:
            return self._tier.open(blob_key(entry.blob), entry.blob, entry.size)
        except KeyError:
            raise self._absent(entry) from None

    def where(self, entry: PackEntry | FileEntry, part: PackEntry | FileEntry | TensorEntry) -> str:
        tier = self.near if self._tier.has(blob_key(entry.blob), entry.size) else self.authority
        return tier.where(entry, part)

    def read_manifest(self, digest: Digest) -> Cached:
        try:
            return self.near.read_manifest(digest)
        except CacheError:  # not here, or not as it should be
            return super().read_manifest(digest)

    def read_outline(self, digest: Digest) -> Outlined:
        try:
            return self.near.read_outline(digest)
        except CacheError:
            return super().read_outline(digest)

    def missing(self, manifest: Outline) -> list[PackEntry | FileEntry]:
        here = self.near.missing(manifest)
        return super().missing(manifest) if here else []

    def to_fetch(self, manifest: Manifest) -> dict[Digest, int]:
        return {digest: size for digest, size in manifest.blobs.items() if not self._tier.has(blob_key(digest), size)}

    def check_copies(self, cached: Cached, begin: Begin = silently) -> None:
        lacking = self.to_fetch(cached.manifest)
        here = {digest: size for digest, size in cached.manifest.blobs.items() if digest not in lacking}
        progress = begin(here)
        for digest, size in here.items():
            key = blob_key(digest)
            if self.near.hash(key) not in ((digest, size), None):
                self._tier.move_away(key, f"{self.near.store.url}/{key} is damaged")
            progress(size)

    def fetch(self, cached: Cached, ref: Ref | None, begin: Begin = silently) -> dict[Digest, int]:
        """Copy a model here, as far as it is not: its blobs, then what leads to them.

        IntegrityError where a blob is nowhere or damaged in the shared store, NoSpaceError where they do not fit here.
        """
        lacking = self._lacking(cached)
        progress = begin(lacking)
        with self.counters.timed("fetch"):
            try:
                self._tier.fetch_all({blob_key(digest): (digest, size) for digest, size in lacking.items()}, progress)
            except KeyError as error:
                raise self._absent(next(e for e in cached.manifest.entries() if blob_key(e.blob) in error.args)) from None
        self._lead_to(cached, ref)
        return lacking

    def fetch_as_read(self, cached: Cached, ref: Ref | None, begin: Begin = silently) -> dict[Digest, int]:
        """NoSpaceError where it will not fit here; what is wrong with a blob, its reader is told."""
        lacking = self._lacking(cached)
        sizes = {blob_key(digest): size for digest, size in lacking.items()}
        self._tier.expect(sizes, begin(lacking), lambda: self._lead_to(cached, ref))
        return lacking

    def flush(self) -> None:
        self._tier.flush()

    def publish_blob(self, content: bytes | memoryview) -> Digest:
        digest = super().publish_blob(content)
        self._tier.keep(blob_key(digest), content)
        return digest

    def _lacking(self, cached: Cached) -> dict[Digest, int]:
        """The blobs that are not here, with their sizes. NoSpaceError where they do not fit here."""
        lacking = self.to_fetch(cached.manifest)
        if self.check_space:
            near = self.near.store
            way_out = f"{how_to_free(near.url)}; or choose another place with --local, or none with --no-local"
            require_space(near, sum(lacking.values()), "a copy of the model", way_out)
        return lacking

    def _lead_to(self, cached: Cached, ref: Ref | None) -> None:
        with suppress(StoreReadOnly, UntrustedError):  # it is of use without them as long as there is a network
            self._copy_small(cached, ref)

    def _copy_small(self, cached: Cached, ref: Ref | None) -> None:
        """What leads to a model, and the signatures of it, to be here when there is no network."""
        near = self.near.store
        copy_signatures(self.store, near, "manifest", cached.digest)
        self.near._publish(manifest_key(cached.digest), cached.manifest.to_bytes(), cached.digest)
        near.put(action_key(cached.manifest.action), action_entry(cached.digest))
        latest = refs.read_latest(self.store, ref) if ref else None
        if ref is None or latest is None or latest.means is None or latest.means.manifest != cached.digest:
            return  # without a name, or that was moved while the model was being fetched
        if not copy_history(self.store, near, ref):
            # The folder is also a cache of its own, or was the tier of another one: its own history goes on.
            self.near.move_ref(ref, cached, latest.means.repo, latest.means.commit)

    def _discard(self, entry: PackEntry | FileEntry, stream: BinaryIO, error: IntegrityError) -> None:
        """Have the next look at a blob go to the shared store; the error itself where that was the last look."""
        if not self._tier.discard(blob_key(entry.blob), stream, error.message.partition("; ")[0]):
            raise error
