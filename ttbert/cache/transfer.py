"""Copying a whole model from one cache to another, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .blob import check_end, read_blob
from .cache import Cache, Cached, blob_key
from .refs import Ref, RefEntry
from .tier import AT_ONCE


def push(
    near: Cache, far: Cache, ref: Ref, entry: RefEntry, cached: Cached, progress: Callable[[int], None] = lambda size: None
) -> None:
    """Publish a model of one cache in another, under its name; what is there already is left alone.

    IntegrityError for a damaged blob here, which is not published; then nothing leads to those that were.
    """

    def one(blob: tuple[str, int]) -> None:
        key, size = blob
        where = near.store.url + "/" + key
        with near.store.open(key) as stream, read_blob(stream, digests[key], size, where) as checked:
            check_end(stream, where)
            far.publish_blob(checked.view())
        progress(size)

    lacking = {each.entry.blob: each.entry.size for each in far.missing(cached.manifest)}
    digests = {blob_key(digest): digest for digest in lacking}
    with ThreadPoolExecutor(AT_ONCE) as workers:
        try:
            for _ in workers.map(one, ((blob_key(digest), size) for digest, size in lacking.items())):
                pass
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    far.move_ref(ref, far.publish_manifest(cached.manifest), entry.repo, entry.commit)
