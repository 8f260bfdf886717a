"""Copying a whole model from one cache to another, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..threads import map_ahead
from . import refs
from .blob import check_end, read_blob
from .cache import Begin, Cache, Cached, silently
from .digest import Digest, blake3_of
from .manifest import FileEntry, PackEntry
from .refs import Ref, RefEntry
from .stores.pieces import pieces_of
from .stores.store import Store, read_twice
from .trust import copy_signatures


def push(near: Cache, far: Cache, ref: Ref, entry: RefEntry, cached: Cached, begin: Begin = silently) -> dict[Digest, int]:
    """Publish a model of one cache in another, under its name, with the signatures of both; what is there is left alone.

    The blobs that were not there, with their sizes.

    A name that has no history there, or the beginning of the one here, goes on with the very entries of here, so that their
    signatures hold. Another history goes on by an entry of its own. Whoever pushes signs what is new there, if they can.
    IntegrityError for a blob that is damaged or missing here, which is not published; then nothing leads to those that were.
    """

    def one(entry: PackEntry | FileEntry) -> None:
        where = near.where(entry, entry)
        with (
            near.open(entry) as stream,
            pieces_of(stream) as take,
            read_blob(take, entry.blob, entry.size, where) as checked,
        ):
            check_end(stream, where)
            far.publish_blob(checked.view())
        progress(entry.size)

    entries = {entry.blob: entry for entry in far.missing(cached.manifest)}
    lacking = {blob: entry.size for blob, entry in entries.items()}
    progress = begin(lacking)
    for _ in map_ahead(far.store.streams, one, entries.values()):
        pass
    copy_signatures(near.store, far.store, "manifest", cached.digest)
    published = far.publish_manifest(cached.manifest)
    if published.digest == cached.digest and far.claim(published):
        copy_history(near.store, far.store, ref, partial(far.trust.sign, far.store, "ref"))
    far.move_ref(ref, published, entry.repo, entry.commit)
    return lacking


def copy_history(source: Store, target: Store, ref: Ref, sign: Callable[[Digest], None] = lambda digest: None) -> bool:
    """Let a name's history go on in one store as it does in another, with its signatures; False where it is another one there.

    `sign` is called with the digest of the newest entry, if that is not there yet. A history that is being deleted ends early.
    """
    numbers, there = refs.entry_numbers(source, ref), refs.entry_numbers(target, ref)
    if there and there[-1] not in numbers:
        return False
    with suppress(KeyError):
        if there and refs.read_content(source, ref, there[-1]) != refs.read_content(target, ref, there[-1]):
            return False
        for number in sorted({*numbers} - {*there}):
            # What is damaged on its way must not become an entry, from which that name would go on there.
            content = read_twice(source, refs.entry_key(ref, number), refs.LARGEST_ENTRY + 1)
            digest = blake3_of(content)
            copy_signatures(source, target, "ref", digest)
            if number == numbers[-1]:
                sign(digest)
            target.put(refs.entry_key(ref, number), content)
    return True
