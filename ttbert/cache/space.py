"""Room for what is about to be written: asked for as a whole, before the first byte of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from ..errors import NoSpaceError
from .cache import Cache, blob_key
from .digest import Digest
from .stores.local import how_to_free
from .stores.store import Store


def require_space(
    store: Store, needed: int, what: str, way_out: str | None = None, there: Callable[[], int] = lambda: 0
) -> None:
    """NoSpaceError where the store says that it has less than `needed` bytes free; object stores say nothing.

    `way_out` is how the user makes room or chooses another place. `there` is asked how much of it is there already, if not all
    of it fits.
    """
    free = store.free()
    if free is not None and free < needed:
        needed -= there()
    if free is not None and free < needed:
        raise NoSpaceError(
            f"no space for {what} in {store.url}: {needed:,} bytes needed, {free:,} free; nothing was written",
            f"{way_out or how_to_free(store.url) + '; or choose another place with --cache'}; --no-space-check, or "
            "TTBERT_NO_SPACE_CHECK=1, is for mounts that do not tell the truth about it",
        )


def left_behind(cache: Cache, sizes: Iterable[int], action: Digest) -> int:
    """Bytes of stored blobs of these sizes that are of this action, or that no name leads to.

    The first are what is left of a model that is not whole any more; the others most likely an interrupted conversion left.
    Nobody knows the digests of what has not been made yet. If they are others, the disk is full later, which harms nothing.
    """
    from .census import take_census  # only where room is short

    census = take_census(cache)
    manifests = [cached.manifest for cached in census.manifests_in_use.values()]
    own = {blob for manifest in manifests if manifest.action == action for blob in manifest.blobs}
    used = {blob_key(blob) for blob in census.users if blob not in own}
    found = Counter(entry.size for key, entry in census.blobs.items() if key not in used)
    return sum(size * count for size, count in (found & Counter(sizes)).items())
