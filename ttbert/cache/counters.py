"""What a cache did in this process: blobs found near and fetched, bytes by tier, retries, seconds by phase."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Counters:
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def count(self, what: str) -> None:
        """One more hit, miss, retry or damaged copy."""
        with self._lock:
            self._counts[what] += 1

    def read(self, tier: str, size: int) -> None:
        """Bytes that were read from the local tier or from the cache itself."""
        with self._lock:
            self._bytes[tier] += size

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the time inside `with` to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started

    def document(self) -> dict[str, object]:
        """As JSON has it. A hit is a blob that was in the nearest tier, a miss one that was read from the cache itself."""
        with self._lock:
            return {
                "hits": self._counts["hit"],
                "misses": self._counts["miss"],
                "damaged": self._counts["damaged"],
                "retries": self._counts["retry"],
                "bytes": {"local": self._bytes["local"], "cache": self._bytes["cache"]},
                "seconds": {phase: round(seconds, 3) for phase, seconds in self._seconds.items()},
            }
