"""A stream over a stored object whose ranges are fetched ahead, several at once, in a bounded buffer."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

RANGE = 8 << 20
"""Bytes of one request: large enough to fill a link, small enough to be tried again cheaply."""
AHEAD = 4
"""Ranges in memory or under way at once, for one stream."""

Buffer = bytes | bytearray | memoryview
Fetch = Callable[[int, int], Buffer]
"""The bytes from a start to an end, exactly as many as that is."""


class RangeStream(io.RawIOBase):
    """Reads `size` bytes by ranges, in order; the first one is there already. What `fetch` raises, reading raises."""

    def __init__(self, fetch: Fetch, first: Buffer, size: int, workers: Executor) -> None:
        self._fetch, self._workers = fetch, workers
        self._size = size
        self._asked = len(first)
        self._coming: deque[Future[Buffer]] = deque()
        self._part = memoryview(first)
        self._ask()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._part and self._coming:
            self._part = memoryview(self._coming.popleft().result())
            self._ask()
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def close(self) -> None:
        while self._coming:
            self._coming.pop().cancel()
        super().close()

    def _ask(self) -> None:
        while len(self._coming) < AHEAD - 1 and self._asked < self._size:
            end = min(self._asked + RANGE, self._size)
            self._coming.append(self._workers.submit(self._fetch, self._asked, end))
            self._asked = end
