"""A bounded queue between two threads that either side can end, with or without an error."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The other side wants nothing more."""


class Pipe(Generic[T]):
    """At most `size` items wait in it; `put` blocks while it is full, iterating while it is empty."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Closed if nobody will take it; the error with which the pipe was closed, if there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._error:
                raise self._error
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """The items until the pipe is closed and empty; then the error, if there is one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._items)
                if not self._items:
                    if self._error:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def close(self, error: BaseException | None = None) -> None:
        """No more items come; those that wait can still be taken. A second call changes nothing."""
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()
