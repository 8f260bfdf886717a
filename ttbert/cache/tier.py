"""The local tier: a folder on this machine's disk with copies of what was read from a shared store.

Every object in it is a copy of the object of that name in the shared store, or was published here before. A blob is
fetched whole, in ranges and with other blobs at a time, hashed as it arrives, and then published here as anywhere: so
what is here is whole, an interrupted fetch goes on with the blobs that are not, and nothing is fetched twice. Blobs are
packs of modest size, so a fetch that was cut off loses little.

What lies here is checked again whenever it is read. A damaged copy is moved to quarantine and fetched anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO

from ..errors import IntegrityError, NoSpaceError, StoreReadOnly
from .blob import Blob, read_blob
from .counters import Counters
from .digest import Digest
from .lock import machine_lock
from .stores.local import LocalStore
from .stores.store import Store

_log = logging.getLogger(__name__)

AT_ONCE = 4
"""Blobs fetched at a time. Each is in memory until it is whole, so this bounds how much is."""
_PATIENCE = 120.0
"""Seconds to wait for another process that fetches the same blob."""


class LocalTier:
    """A nearer store, filled as a farther one is read."""

    def __init__(self, near: LocalStore, far: Store, counters: Counters) -> None:
        self.near, self.far = near, far
        self._counters = counters
        self._lock = threading.Lock()
        self._settled: set[str] = set()
        self._suspect: set[str] = set()
        self._frozen = False

    def has(self, key: str, size: int) -> bool:
        """Whether a copy of that size is here. Whether it is sound is seen when it is read."""
        if key in self._suspect:
            return False
        entry = self.near.head(key)
        return entry is not None and entry.size == size

    def open(self, key: str, digest: Digest, size: int) -> BinaryIO:
        """A stream over a blob's copy here, fetched first if it is not; KeyError if it is nowhere."""
        self.fetch(key, digest, size)
        if key not in self._suspect:
            with suppress(KeyError):  # where nothing can be written, or somebody has just deleted it
                stream = self.near.open(key)
                self._counters.read("local", size)
                return stream
        stream = self.far.open(key)
        self._settle(key, "miss")
        self._counters.read("cache", size)
        return stream

    def fetch(self, key: str, digest: Digest, size: int) -> None:
        """Make sure that a blob is here, unless nothing can be written here. KeyError if it is nowhere.

        IntegrityError where the shared store gives other bytes, twice; NoSpaceError where there is no room.
        """
        if self.has(key, size):
            self._settle(key, "hit")
        elif not self._frozen and key not in self._suspect:
            with machine_lock(self.near.lock_file(digest.hex[:2]), _PATIENCE):
                if self.has(key, size):
                    self._settle(key, "hit")  # another process has fetched it meanwhile
                else:
                    self._copy(key, digest, size)

    def fetch_all(self, blobs: Mapping[str, tuple[Digest, int]], progress: Callable[[int], None]) -> None:
        """Fetch what is not here of these blobs, several at a time; `progress` is told the size of each that is done."""

        def one(key: str) -> None:
            self.fetch(key, *blobs[key])
            progress(blobs[key][1])

        with ThreadPoolExecutor(AT_ONCE) as workers:
            try:
                for _ in workers.map(one, blobs):
                    pass
            except BaseException:
                workers.shutdown(wait=False, cancel_futures=True)
                raise

    def discard(self, key: str, why: str) -> bool:
        """Move a damaged copy out of the way, so that it is fetched again; False if there is none that was not tried."""
        if key in self._suspect or self.near.head(key) is None:
            return False
        self._counters.count("damaged")
        try:
            moved = self.near.quarantine(key)
        except KeyError:
            return True  # another process was faster
        except StoreReadOnly:
            self._suspect.add(key)
            _log.warning("%s; it cannot be moved away, so it is read from %s instead", why, self.far.url)
            return True
        _log.warning("%s; moved to %s, fetching it again", why, moved)
        return True

    def keep(self, key: str, content: bytes | memoryview) -> None:
        """Have a copy here of what was published to the shared store, as far as there is room and leave for it."""
        with suppress(StoreReadOnly, NoSpaceError):
            self.near.put(key, content)

    def _copy(self, key: str, digest: Digest, size: int) -> None:
        stored = self.near.head(key)
        if stored is not None:
            self.discard(key, f"{self.near.url}/{key} is damaged: it has {stored.size:,} bytes, not {size:,}")
        with self._far_blob(key, digest, size) as blob:
            self._settle(key, "miss")  # before it is here, where another thread would take it for a hit
            self._counters.read("cache", size)
            try:
                self.near.put(key, blob.view())
            except StoreReadOnly as error:
                self._freeze(error)
            except NoSpaceError as error:
                raise NoSpaceError(
                    error.message, "free some space, choose another folder with --local, or stream with --no-local"
                ) from error

    def _far_blob(self, key: str, digest: Digest, size: int) -> Blob:
        where = f"{self.far.url}/{key}"
        try:
            with self.far.open(key) as stream:
                return read_blob(stream, digest, size, where)
        except IntegrityError as error:
            # Perhaps only on the way; what is stored there has been checked when it was published.
            _log.warning("%s; fetching it again", error.message.partition("; ")[0])
        with self.far.open(key) as stream:
            return read_blob(stream, digest, size, where)

    def _settle(self, key: str, what: str) -> None:
        """Count a hit or a miss of each blob once."""
        with self._lock:
            if key not in self._settled:
                self._settled.add(key)
                self._counters.count(what)

    def _freeze(self, error: StoreReadOnly) -> None:
        with self._lock:
            told, self._frozen = self._frozen, True
        if not told:
            _log.warning("%s; reading from %s without a copy here", error.message, self.far.url)
