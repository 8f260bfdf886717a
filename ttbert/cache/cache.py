"""The cache of converted models: content-addressed blobs, manifests, and the names that lead to them.

Two kinds of programs use it. A conversion publishes: blobs first, then the manifest, the action that leads to it, and
the ref. A run only reads, and checks every byte against the manifest on its way into memory.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from ..errors import CacheError, IncompatibleError, InputError, IntegrityError, NotCached, UntrustedError
from ..frozen import Frozen
from . import refs
from .blob import Blob, check_end, damaged, hash_stream, read_blob, skip
from .condemned import Objections
from .counters import Counters
from .digest import Digest, blake3_of
from .document import LARGEST, Fields, canonical
from .keys import PrivateKey
from .manifest import FileEntry, Manifest, Outline, PackEntry, TensorEntry
from .refs import LogEntry, Ref, RefEntry
from .stores.local import LocalStore
from .stores.pieces import pieces_of
from .stores.readonly import ReadOnlyStore
from .stores.store import Store
from .trust import Trust, publish_signature
from .used import stamp

_log = logging.getLogger(__name__)

ACTION_SCHEMA = "ttbert.action/1"
Begin = Callable[[dict[Digest, int]], Callable[[int], None]]
"""Told of the blobs that are to be copied, which may be none, and their sizes; gives who is told the size of each that came."""
_TRIES = 100


def silently(blobs: dict[Digest, int]) -> Callable[[int], None]:
    """The `Begin` of whoever wants to know nothing."""
    return lambda size: None


class Outlined(Frozen):
    """A manifest that was found, as far as looking after a cache needs it, with its digest."""

    digest: Digest
    manifest: Outline


class Cached(Outlined):
    """A manifest that was found, with its digest."""

    manifest: Manifest


class BlobDraft(Frozen):
    """A blob that is written and that nobody sees. Closed before it is published, it leaves nothing."""

    digest: Digest
    publish: Callable[[], None]
    """Raises what `publish_blob` does."""
    close: Callable[[], None]


class Cache:
    """Blobs, manifests, actions and refs in one store. `TieredCache` has a nearer one in front of it."""

    check_space = True
    """Whether room for all that is to be written is asked for before the first byte."""

    def __init__(
        self,
        store: Store,
        trust: Trust | None = None,
        accept_weak: bool = False,
        counters: Counters | None = None,
    ) -> None:
        """`accept_weak`: publish also where two writers of one key may both succeed."""
        self.store = store
        self.trust = trust or Trust()
        self._objections = Objections(store)
        self._accept_weak = accept_weak
        self.counters = counters or Counters()

    @property
    def near(self) -> Cache | None:
        """The copies on this machine, if there is a tier for them."""
        return None

    @property
    def authority(self) -> Cache:
        """The shared store alone: what is in it is there for everybody."""
        return self

    # Reading

    def load(self, entry: FileEntry) -> bytes:
        """A file of a manifest, checked against its digest. IntegrityError where it is missing or damaged."""
        with self.open(entry) as stream:
            return self._read_file(stream, entry)

    def load_pack(self, pack: PackEntry, start: int = 0) -> Iterator[tuple[TensorEntry, Blob]]:
        """The tensors of a pack from number `start`, each checked against its own digest; the caller closes each blob.

        IntegrityError where the pack is missing, or as soon as a tensor is damaged.
        """
        with self.open(pack) as stream:
            yield from self._read_pack(stream, pack, start)

    def open(self, entry: PackEntry | FileEntry) -> BinaryIO:
        """A stream over the blob of a manifest's entry, not checked yet. IntegrityError where there is none."""
        try:
            stream = self.store.open(blob_key(entry.blob))
        except KeyError:
            raise self._absent(entry) from None
        self.counters.read("cache", entry.size)
        return stream

    def where(self, entry: PackEntry | FileEntry, part: PackEntry | FileEntry | TensorEntry) -> str:
        """The name of a blob, and of the part of it that is of interest, for errors."""
        return f"{self._where(blob_key(entry.blob))} ({part.name})"

    def manifest(self, digest: Digest) -> Cached:
        """The manifest of that digest, to be used: UntrustedError unless it is signed as this user requires it.

        NotCached where there is none, IntegrityError where it is damaged.
        """
        self.trust.check(self.store, "manifest", digest, f"manifest {digest.short} in {self.store.url}")
        return self.read_manifest(digest)

    def read_manifest(self, digest: Digest) -> Cached:
        """The manifest of that digest, to be looked at only: whoever signed it, or nobody. Errors as of `manifest`."""
        return Cached(digest, Manifest.parse(self._manifest_bytes(digest), self._where(manifest_key(digest))))

    def read_outline(self, digest: Digest) -> Outlined:
        """A manifest without its tensors, to be looked at only. Errors as of `manifest`."""
        return Outlined(digest, Outline.parse(self._manifest_bytes(digest), self._where(manifest_key(digest))))

    def _manifest_bytes(self, digest: Digest) -> bytes:
        key = manifest_key(digest)
        try:
            content = self.store.get(key, 0, LARGEST + 1)
        except KeyError:
            raise NotCached(
                f"{self.store.url} has no manifest {digest.short}", "see `ttbert cache ls`, or convert the model"
            ) from None
        if len(content) > LARGEST:
            raise damaged(self._where(key), f"more than {LARGEST:,} bytes are too many for a manifest")
        if blake3_of(content) != digest:
            raise damaged(self._where(key), f"its digest is {blake3_of(content).short}..., not {digest.short}...")
        return content

    def note_use(self, digest: Digest) -> None:
        """Note that a model is used today, here and in the shared store, as far as that can be written."""
        for cache in filter(None, (self.near, self.authority)):
            stamp(cache.store, digest)

    def missing(self, manifest: Outline) -> list[PackEntry | FileEntry]:
        """Entries whose blob is absent or of another size. Digests are checked when blobs are loaded, and by `verify`."""
        blobs = manifest.blobs
        found = dict(zip(blobs, self.store.map(self.store.head, map(blob_key, blobs)), strict=True))
        sizes = {blob: entry.size if entry else None for blob, entry in found.items()}
        return [each for each in manifest.entries() if sizes[each.blob] != each.size]

    def find(self, action: Digest) -> Cached | None:
        """The complete result of a conversion, or None: not done yet, or no longer whole. UntrustedError as of `manifest`."""
        cached = self.find_stored(action)
        return cached if cached and not self.missing(cached.manifest) else None

    def find_stored(self, action: Digest) -> Cached | None:
        """The result of a conversion, whole or not; None where there is none, or its manifest cannot be read."""
        digest = self.read_action(action)
        try:
            cached = self.manifest(digest) if digest else None
        except (NotCached, IntegrityError, IncompatibleError):
            return None
        return cached if cached and cached.manifest.action == action else None

    def read_action(self, action: Digest) -> Digest | None:
        """The manifest that an action led to; None where there is none, or where the entry is damaged."""
        key = action_key(action)
        try:
            return parse_action(self.store.get(key, 0, LARGEST + 1), self._where(key))
        except (KeyError, IntegrityError, IncompatibleError):
            return None

    def resolve(self, ref: Ref) -> Cached | None:
        """What a ref means, or None where it is not known. UntrustedError as of `manifest`, and for one rolled back."""
        latest = self.trust.latest(self.store, ref)
        if latest is None:
            return None
        self.trust.check_ref(self.store, ref, latest)
        return self.manifest(latest.means.manifest) if latest.means else None

    def read_ref(self, ref: Ref) -> RefEntry | None:
        """What a ref means, whoever says so, to be looked at; errors as of `refs.read_entry`, None where it is not known."""
        return refs.read_ref(self.store, ref)

    def list_refs(self) -> Iterator[Ref]:
        """Every ref that has a history, those that were removed among them."""
        return refs.list_refs(self.store)

    def to_fetch(self, manifest: Manifest) -> dict[Digest, int]:
        """The blobs that `fetch` would copy to this machine, with their sizes."""
        return {}

    def check_copies(self, cached: Cached, begin: Begin = silently) -> None:
        """Read the copies that are on this machine, and have damaged ones fetched again by `fetch`."""

    def fetch(self, cached: Cached, ref: Ref | None, begin: Begin = silently) -> dict[Digest, int]:
        """Copy a model to this machine, if there is a tier for that; the blobs that were not here, with their sizes."""
        return {}

    def fetch_as_read(self, cached: Cached, ref: Ref | None, begin: Begin = silently) -> dict[Digest, int]:
        """As `fetch`, for a model that is about to be read whole: what is not here is copied while it is read.

        Progress may then be told from any thread.
        """
        return {}

    def flush(self) -> None:
        """Wait until what was copied to this machine on its way is there to stay. The end of the process waits, too."""

    # Publishing: called by conversions alone

    def check_may_publish(self) -> None:
        """StoreReadOnly where this process only reads, which no key changes; else UntrustedError as `Trust` says."""
        if isinstance(self.store, ReadOnlyStore):
            self.store.refuse()
        self.trust.check_may_publish()

    def publish_blob(self, content: bytes | memoryview) -> Digest:
        """Store bytes under their digest. A copy that is there already is checked, and replaced where it is damaged."""
        digest = blake3_of(content)
        self._publish(blob_key(digest), content, digest)
        return digest

    @property
    def drafts(self) -> LocalStore | None:
        """Where blobs can be written before anybody sees them: on a disk of this machine."""
        return self.store if isinstance(self.store, LocalStore) and not self.store.capabilities.seen_within else None

    def draft_blob(self, content: bytes | memoryview) -> BlobDraft:
        """Write bytes to the disk that are to become a blob if they are wanted. Raises what `publish_blob` does."""
        assert self.drafts
        digest = blake3_of(content)
        key = blob_key(digest)
        with contextlib.ExitStack() as stack:
            draft = stack.enter_context(self.drafts.draft(key, len(content)))
            draft.write(content)
            draft.sync()
            stack.pop_all()
        return BlobDraft(digest, partial(self._publish_by, draft.publish, key, digest, len(content)), draft.close)

    def claim(self, cached: Cached) -> bool:
        """Keep a model that was found from being deleted until it has a name; False where it is no longer whole."""
        condemned = self._objections.reprieve(keys_of(cached))
        # A sweep that has ended since it was found condemns nothing any more, either: but the manifest went first.
        if self.store.head(manifest_key(cached.digest)) is None:
            return False
        return not condemned or not self.authority.missing(cached.manifest)

    def publish_manifest(self, manifest: Manifest) -> Cached:
        """Store a manifest and the action that leads to it. Its blobs must have been published.

        If the action already leads to a whole manifest, that one is given: of two that convert the same at once, one
        wins. UntrustedError where it had to be signed, and neither is nor can be.
        """
        content = manifest.to_bytes()
        digest = blake3_of(content)
        if not self.trust.believes(self.store, "manifest", digest):
            self.check_may_publish()
        winner = self._winner(manifest.action)
        if winner and self.claim(winner):
            return winner
        self._check_whole(manifest)
        Manifest.parse(content, "the new manifest")  # what could not be read back is not published
        self._publish(manifest_key(digest), content, digest)
        self.trust.sign(self.store, "manifest", digest)
        key = action_key(manifest.action)
        entry = action_entry(digest)
        if not self.store.put(key, entry) and self._winner(manifest.action) is None:
            self.store.delete(key)  # it leads to nothing that is whole and trusted
            self.store.put(key, entry)
        return self._winner(manifest.action) or Cached(digest, manifest)

    def move_ref(self, ref: Ref, cached: Cached, repo: str, commit: str | None) -> None:
        """Make `ref` mean a manifest. UntrustedError where that had to be signed, and there is no trusted key to do it.

        A manifest that no ref led to may be condemned, and in the middle of being deleted. So all that belongs to it is
        reprieved first, and looked for once more before and after: CacheError if something is gone. A ref that is
        condemned itself gets a new entry in any case, since only the last one that was condemned can be forgotten.
        """
        for key in keys_of(cached):
            self.store.touch(key)
        condemned = self._objections.reprieve([*keys_of(cached), ref.folder])
        if condemned or self.store.head(manifest_key(cached.digest)) is None:
            self._publish(manifest_key(cached.digest), cached.manifest.to_bytes(), cached.digest)
            self.trust.sign(self.store, "manifest", cached.digest)
        self._check_whole(cached.manifest)
        self._append(ref, RefEntry(cached.digest, repo, commit, created=""), anew=ref.folder in condemned)
        self._check_whole(cached.manifest)
        self.note_use(cached.digest)

    def remove_ref(self, ref: Ref, after: int | None = None) -> None:
        """Make `ref` mean nothing any more; its history stays. What it meant is left to the collection of garbage.

        With `after`, only if that is the number of its last entry.
        """
        self._append(ref, None, after)

    def sign(self, ref: Ref, key: PrivateKey) -> Cached:
        """Vouch for what `ref` means with a key: for the manifest, and for the name's leading to it; the manifest."""
        latest = refs.read_latest(self.store, ref)
        if latest is None or latest.means is None:
            raise InputError(f"{ref} means nothing in {self.store.url}", "see `ttbert cache ls`")
        self.trust.check_history(self.store, ref, latest)
        cached = self.read_manifest(latest.means.manifest)  # what cannot be read is not signed
        publish_signature(self.store, "manifest", latest.means.manifest, key)
        publish_signature(self.store, "ref", latest.digest, key)
        return cached

    def hash(self, key: str) -> tuple[Digest, int] | str | None:
        """The digest and size of what is stored under `key`, by reading all of it; None where there is nothing.

        A text where the disk does not give it, which says why.
        """
        try:
            with self.store.open(key) as stream:
                return hash_stream(stream)
        except KeyError:
            return None
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"

    def _read_file(self, stream: BinaryIO, entry: FileEntry) -> bytes:
        where = self.where(entry, entry)
        with pieces_of(stream) as take, read_blob(take, entry.blob, entry.size, where) as blob:
            check_end(stream, where)
            return blob.bytes()

    def _read_pack(self, stream: BinaryIO, pack: PackEntry, start: int) -> Iterator[tuple[TensorEntry, Blob]]:
        skip(stream, sum(tensor.size for tensor in pack.tensors[:start]), self.where(pack, pack))
        with pieces_of(stream) as take:
            for tensor in pack.tensors[start:]:
                yield tensor, read_blob(take, tensor.digest, tensor.size, self.where(pack, tensor))
        check_end(stream, self.where(pack, pack))

    def _absent(self, entry: PackEntry | FileEntry) -> IntegrityError:
        return IntegrityError(
            f"{self._where(blob_key(entry.blob))} is missing; {entry.name} needs it",
            "convert the model again, which restores it",
        )

    def _append(self, ref: Ref, means: RefEntry | None, after: int | None = None, anew: bool = False) -> None:
        def sign(digest: Digest) -> None:
            if means:
                self.check_may_publish()
                self._require_exact_writes()
            self.trust.sign(self.store, "ref", digest)

        def accept(latest: LogEntry) -> bool:
            if means is None:
                return True
            self.trust.check_history(self.store, ref, latest)
            if latest.means and latest.means.repo != means.repo and latest.means.manifest != means.manifest:
                was = f"{latest.means.manifest.short} of {latest.means.repo}"
                _log.warning("%s meant %s until now; `convert --name` files a model under another name", ref, was)
            return not anew and self.trust.believes(self.store, "ref", latest.digest)

        entry = refs.move_ref(self.store, ref, means, sign, accept, after)
        if entry:
            self.trust.memory.remember(self.store, ref, entry)

    def _winner(self, action: Digest) -> Cached | None:
        """What was published first for an action, if it may be used."""
        try:
            return self.find(action)
        except UntrustedError:
            return None

    def _publish(self, key: str, content: bytes | memoryview, digest: Digest) -> None:
        self._publish_by(lambda: self.store.put(key, content), key, digest, len(content))

    def _publish_by(self, put: Callable[[], bool], key: str, digest: Digest, size: int) -> None:
        self._require_exact_writes()
        for _ in range(_TRIES):
            if put():
                return
            self.store.touch(key)
            self._objections.reprieve([key])
            # Read twice, since bytes may be damaged on their way here, differently each time; others need what is moved away.
            reading, right = self.hash(key), (digest, size)
            if reading == right or (again := self.hash(key)) == right:
                return
            if reading == again:
                with contextlib.suppress(KeyError):  # another writer may have moved it first
                    self.store.quarantine(key)
        raise CacheError(f"{self._where(key)} could not be published: whatever is there is damaged", "look at the disk")

    def _require_exact_writes(self) -> None:
        if not self._accept_weak and not self.store.creates_exactly_once():
            raise CacheError(
                f"{self.store.url} does not refuse to overwrite: two machines that name a model at the same moment may both "
                "believe they did, and one of the names is lost",
                "--accept-weak-store publishes there all the same; wrong bytes are refused by their digests there, too",
            )

    def _check_whole(self, manifest: Manifest) -> None:
        absent = self.authority.missing(manifest)
        if absent:
            raise CacheError(
                f"{len(absent)} of {len(manifest.blobs)} blobs vanished from {self.store.url}, {absent[0].name} first",
                "somebody is deleting there; convert again",
            )

    def _where(self, key: str) -> str:
        return f"{self.store.url.rstrip('/')}/{key}"


def require_lasting(cache: Cache) -> None:
    """InputError for a cache in the memory of this process, in which nobody would find what is converted."""
    if cache.store.url.startswith("memory:"):
        raise InputError(f"{cache.store.url} ends with this command, and all that is in it", "give a folder with --cache")


def keys_of(cached: Outlined) -> set[str]:
    """A manifest, its action and its blobs."""
    manifest = cached.manifest
    return {manifest_key(cached.digest), action_key(manifest.action), *map(blob_key, manifest.blobs)}


def action_entry(manifest: Digest) -> bytes:
    """The entry of an action that leads to a manifest."""
    return canonical({"schema": ACTION_SCHEMA, "manifest": str(manifest)})


def parse_action(content: bytes, where: str) -> Digest:
    """The manifest that an action's entry leads to; IntegrityError, naming `where`, for what is no such entry."""
    fields = Fields.parse(content, where)
    fields.schema(ACTION_SCHEMA)
    manifest = fields.blake3("manifest")
    fields.done()
    return manifest


def blob_key(digest: Digest) -> str:
    return f"blobs/{digest.hex[:2]}/{digest.hex}"


def manifest_key(digest: Digest) -> str:
    return f"manifests/{digest.hex[:2]}/{digest.hex}"


def action_key(digest: Digest) -> str:
    return f"actions/{digest.hex[:2]}/{digest.hex}"
