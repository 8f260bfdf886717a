"""Several threads that do the same for one item after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 64


def map_ahead(
    threads: int, function: Callable[[T], R], items: Iterable[T], ahead: int = _AHEAD, stop: Event | None = None
) -> Generator[R, None, None]:
    """What a function gives for each item, in their order, at most `ahead` items ahead of whoever takes it.

    Raises the function's error where its result would come. After that, or when it is closed, no other item is begun, `stop` is
    set to tell those that are, and they are waited for.
    """
    with ThreadPoolExecutor(threads) as workers:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(workers.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            if stop:
                stop.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise
