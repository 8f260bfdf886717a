"""Room for what is about to be written: asked for as a whole, before the first byte of it."""

from __future__ import annotations

from ..errors import NoSpaceError
from .stores.store import Store


def require_space(store: Store, needed: int, what: str, option: str = "--cache") -> None:
    """NoSpaceError where the store says that it has less than `needed` bytes free; object stores say nothing.

    `option` is how the user chooses another place.

    What is there already is not taken off, since nobody knows the digests of what has not been made yet.
    """
    free = store.free()
    if free is not None and free < needed:
        raise NoSpaceError(
            f"no space for {what} in {store.url}: {needed:,} bytes needed, {free:,} free; nothing was written",
            f"free some with `ttbert cache gc`, or choose another place with {option}; --no-space-check, or "
            "TTBERT_NO_SPACE_CHECK=1, is for mounts that do not tell the truth about it",
        )
