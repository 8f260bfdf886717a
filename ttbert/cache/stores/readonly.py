"""A store that this process only reads, whatever it may do there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NoReturn

from ...errors import StoreReadOnly
from .store import Entry, R, Store, T

WAY_OUT = "do it on a machine that may publish, or leave --read-only, TTBERT_READ_ONLY and read_only in config.toml away"
"""What to do where something is not there, or is to be changed."""


class ReadOnlyStore(Store):
    """Another store, of which nothing is ever changed. What is there already counts as published, as everywhere."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url, self.capabilities, self.access = store.url, store.capabilities, store.access
        self.streams = store.streams

    def put(self, key: str, content: bytes | memoryview) -> bool:
        if self.store.head(key) is None:
            self.refuse()
        return False

    def open(self, key: str) -> BinaryIO:
        return self.store.open(key)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self.store.get(key, start, length)

    def head(self, key: str) -> Entry | None:
        return self.store.head(key)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return self.store.map(function, items)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.store.list(prefix)

    def delete(self, key: str) -> bool:
        return self.refuse()

    def quarantine(self, key: str) -> str:
        return self.refuse()

    def touch(self, key: str) -> None:
        """Its age is not ours to restart."""

    def free(self) -> int | None:
        return self.store.free()

    def endpoint(self) -> tuple[str, int] | None:
        return self.store.endpoint()

    def debris(self) -> Iterator[Entry]:
        return self.store.debris()

    def remove_debris(self, entry: Entry) -> bool:
        return self.refuse()

    def refuse(self) -> NoReturn:
        """StoreReadOnly, as for every change."""
        raise StoreReadOnly(f"{self.url} is used for reading only here (--read-only)", WAY_OUT)
