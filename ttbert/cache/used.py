"""When models were last used, by the cache's own clock.

A load leaves an empty object `used/<manifest>/<day>`, one a day and model. Access times are no clock, since most mounts do
not keep them, and on object stores nothing can be touched; so the stamp is an object like any other, and its age is the
store's word. A day's use counts until that day ends, in UTC. Whoever may only read leaves no stamp, and nobody is kept from
loading by a stamp that cannot be written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from datetime import datetime, timezone

from ..errors import CacheError
from .digest import Digest
from .stores.store import Entry, Store

_KEY = re.compile(r"used/([0-9a-f]{64})/[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY = 24 * 3600.0


def stamp(store: Store, manifest: Digest) -> None:
    """Note that a model was used today; does nothing where that cannot be written."""
    with contextlib.suppress(CacheError):
        store.put(f"used/{manifest.hex}/{datetime.now(timezone.utc):%Y-%m-%d}", b"")


def manifest_of(key: str) -> Digest | None:
    """Whose stamp is stored there; None for what is no stamp."""
    match = _KEY.fullmatch(key)
    return Digest("blake3", match[1]) if match else None


def last_used(stamps: Iterable[Entry]) -> dict[Digest, float]:
    """For each manifest that has stamps, the end of the last day on which it was used, in seconds since the epoch."""
    found: dict[Digest, float] = {}
    for entry in stamps:
        manifest = manifest_of(entry.key)
        if manifest:
            found[manifest] = max(found.get(manifest, 0.0), (entry.modified // _DAY + 1) * _DAY)
    return found


def superseded(stamps: Iterable[Entry]) -> list[Entry]:
    """Stamps that say nothing more, since the same manifest has a later one."""
    latest: dict[Digest, Entry] = {}
    old = []
    for entry in sorted(stamps, key=lambda each: each.modified):
        manifest = manifest_of(entry.key)
        if manifest:
            if manifest in latest:
                old.append(latest[manifest])
            latest[manifest] = entry
    return old
