"""The local tier: a folder on this machine's disk with copies of what was read from a shared store.

Every object in it is a copy of the object of that name in the shared store, or was published here before. Whoever reads
a blob that is not here reads it from the shared store, and each piece is hashed and written here on its way to the
reader; when all have come, and have the digest, that file is the copy. So no byte is fetched or read twice, an
interrupted fetch goes on with the blobs that are not here, and blobs are packs of modest size, so it loses little.

A copy is seen by others at once, and made to last by threads that the reader does not wait for; `flush` does. A power cut
before they are done may damage a copy. That costs a fetch, and nothing else: what lies here is checked again whenever it
is read, and a damaged copy is moved to quarantine and fetched anew.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import BinaryIO, cast

from ..errors import IntegrityError, NoSpaceError, StoreReadOnly
from ..threads import map_ahead
from .counters import Counters
from .digest import Digest
from .incoming import Incoming
from .lock import machine_lock
from .stores.local import Draft, LocalStore
from .stores.store import Store

_log = logging.getLogger(__name__)

_PATIENCE = 120.0
"""Seconds to wait for another process that fetches the same blob."""
LOCKS = "fetches"
"""The file that stands for a lock for each blob."""
_SYNCS = 4
"""Copies that the disk is asked to keep at a time."""


def lock_number(digest: Digest) -> int:
    """The lock of a blob, which it shares with no other one, as far as digests go."""
    return int(digest.hex[:15], 16)


class LocalTier:
    """A nearer store, filled as a farther one is read."""

    def __init__(self, near: LocalStore, far: Store, counters: Counters) -> None:
        self.near, self.far = near, far
        self._counters = counters
        self._lock = threading.Lock()
        self._settled: set[str] = set()
        self._suspect: set[str] = set()
        self._tried_again: set[str] = set()
        self._frozen = False
        self._syncs = ThreadPoolExecutor(_SYNCS, thread_name_prefix="sync")
        self._syncing: list[Future[None]] = []
        self._expected: dict[str, int] = {}
        self._progress: Callable[[int], None] = lambda size: None
        self._then: Callable[[], None] = lambda: None

    def has(self, key: str, size: int) -> bool:
        """Whether a copy of that size is here. Whether it is sound is seen when it is read."""
        if key in self._suspect:
            return False
        entry = self.near.head(key)
        return entry is not None and entry.size == size

    def open(self, key: str, digest: Digest, size: int) -> BinaryIO:
        """A stream over a blob: over its copy here, or over the shared store's, which is copied here as it is read.

        Until that has come whole, or is closed, others who open the same blob wait, on this machine and in this thread.
        KeyError if it is nowhere. From the shared store, the stream raises IntegrityError for bytes that are not those of
        the digest, and NoSpaceError where there is no room for them.
        """
        return self._open_near(key, size) or cast(BinaryIO, self._open_far(key, digest, size))

    def fetch(self, key: str, digest: Digest, size: int) -> None:
        """Make sure that a blob is here, unless nothing can be written here. KeyError if it is nowhere.

        IntegrityError where the shared store gives other bytes, twice; NoSpaceError where there is no room.
        """
        while not self.has(key, size):
            if self._frozen or key in self._suspect:
                return
            try:
                with self._open_far(key, digest, size) as stream:
                    if isinstance(stream, Incoming) and not self._frozen:
                        stream.drain()
            except IntegrityError as error:
                if not self._try_again(key, error.message.partition("; ")[0]):
                    raise
        self._settle(key, "hit")

    def fetch_all(self, blobs: Mapping[str, tuple[Digest, int]], progress: Callable[[int], None]) -> None:
        """Fetch what is not here of these blobs, several at a time, to stay here.

        `progress` is told the size of each that is done.
        """

        def one(key: str) -> None:
            self.fetch(key, *blobs[key])
            progress(blobs[key][1])

        for _ in map_ahead(self.far.streams, one, blobs):
            pass
        self.flush()

    def expect(self, blobs: Mapping[str, int], progress: Callable[[int], None], then: Callable[[], None]) -> None:
        """Of these blobs, which are about to be read, tell `progress` the size of each that has come.

        When all have, and are here to stay, `then` is called in a thread that nobody waits for but `flush`.
        """
        with self._lock:
            self._expected, self._progress, self._then = dict(blobs), progress, then
            self._complete_if_all_came()

    def flush(self) -> None:
        """Wait until what was copied here stays here, and what was to happen then is done."""
        with self._lock:
            waiting, self._syncing = self._syncing, []
        wait(waiting)
        for each in waiting:
            each.result()

    def discard(self, key: str, stream: BinaryIO, why: str) -> bool:
        """Have a blob fetched again of which `stream` gave damaged bytes; a copy here is moved out of the way.

        False where the bytes came from the shared store, and were fetched again before.
        """
        if isinstance(stream, Incoming):
            return self._try_again(key, why)
        entry, read = self.near.head(key), os.fstat(stream.fileno())
        if entry and (entry.size, entry.modified) == (read.st_size, read.st_mtime):  # not moved by another reader, nor replaced
            self.move_away(key, why)
        return True

    def keep(self, key: str, content: bytes | memoryview) -> None:
        """Have a copy here of what was published to the shared store, as far as there is room and leave for it."""
        with suppress(StoreReadOnly, NoSpaceError):
            self.near.put(key, content)

    def move_away(self, key: str, why: str) -> None:
        """Move a damaged copy out of the way, or look past it where that is not permitted."""
        if key in self._suspect:
            return
        try:
            moved = self.near.quarantine(key)
        except KeyError:  # another reader was faster
            return
        except StoreReadOnly:
            self._suspect.add(key)
            _log.warning("%s; it cannot be moved away, so it is read from %s instead", why, self.far.url)
        else:
            _log.warning("%s; moved to %s, fetching it again", why, moved)
        self._counters.count("damaged")

    def _try_again(self, key: str, why: str) -> bool:
        # Perhaps it was damaged only on the way; what is stored there was checked when it was published.
        with self._lock:
            if key in self._tried_again:
                return False
            self._tried_again.add(key)
        _log.warning("%s; fetching it again", why)
        return True

    def _open_near(self, key: str, size: int) -> BinaryIO | None:
        if not self.has(key, size):
            return None
        try:
            stream = self.near.open(key)
        except KeyError:  # just deleted
            return None
        self._settle(key, "hit")
        self._arrived(key)
        self._counters.read("local", size)
        return stream

    def _open_far(self, key: str, digest: Digest, size: int) -> BinaryIO | Incoming:
        with ExitStack() as held:
            draft = None
            if not self._frozen and key not in self._suspect:
                held.enter_context(machine_lock(self.near.lock_file(LOCKS), lock_number(digest), _PATIENCE))
                stream = self._open_near(key, size)
                if stream:
                    return stream  # another process has fetched it meanwhile
                draft = self._begin(key, size)
                if draft:
                    held.callback(draft.close)
            far = self.far.open(key)
            self._settle(key, "miss")  # before it is here, where another thread would take it for a hit
            self._counters.read("cache", size)
            keep, finish = partial(self._write, draft), partial(self._publish, draft, key)
            return Incoming(far, digest, size, f"{self.far.url}/{key}", keep, finish, held.pop_all())
        raise AssertionError

    def _begin(self, key: str, size: int) -> Draft | None:
        """The file for a copy, after what was here in its place is moved away; None where nothing can be written."""
        stored = self.near.head(key)
        if stored is not None:
            self.move_away(key, f"{self.near.url}/{key} is damaged: it has {stored.size:,} bytes, not {size:,}")
            if key in self._suspect:
                return None
        with self._explained():
            return self.near.draft(key, size)
        return None

    def _write(self, draft: Draft | None, piece: memoryview) -> None:
        if draft and not self._frozen:
            with self._explained():
                draft.write(piece)

    def _publish(self, draft: Draft | None, key: str) -> None:
        if draft and not self._frozen:
            with self._explained():
                draft.publish(lasting=False)
                with self._lock:
                    self._syncing.append(self._syncs.submit(self.near.sync, key))
        self._arrived(key)

    def _arrived(self, key: str) -> None:
        with self._lock:
            size = self._expected.pop(key, None)
            if size is None:
                return
            self._complete_if_all_came()
        self._progress(size)

    def _complete_if_all_came(self) -> None:
        if not self._expected:
            self._syncing.append(self._syncs.submit(self._complete, tuple(self._syncing), self._then))

    def _complete(self, before: tuple[Future[None], ...], then: Callable[[], None]) -> None:
        if all(each.exception() is None for each in before):  # of what failed, `flush` tells
            then()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Writes here: nothing more is written after one that is refused."""
        try:
            yield
        except StoreReadOnly as error:
            self._freeze(error)
        except NoSpaceError as error:
            error.hint = "free some space, choose another folder with --local, or stream with --no-local"
            raise

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
