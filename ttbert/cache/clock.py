"""The clock of a store: the ages of its objects are told by it, and it may go otherwise than that of this machine."""

from __future__ import annotations

import contextlib
import time
import uuid

from ..errors import CacheError
from .stores.store import Store


def read_clock(store: Store, folder: str) -> float:
    """The time there, in seconds since the epoch, by an object that is written below `folder`. Errors are as of writing."""
    key = f"{folder}/clock/{uuid.uuid4().hex}"
    store.put(key, b"")
    entry = store.head(key)
    with contextlib.suppress(CacheError):
        store.delete(key)
    return entry.modified if entry else time.time()
