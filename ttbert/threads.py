"""Several threads that do the same for one item after another, and all of which end before their work does."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Event, Thread, current_thread, local
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 64

_of_thread = local()


class Threads(ThreadPoolExecutor):
    """A pool that waits for each of its threads at its end, even for one that Ctrl-C met while it was being started.

    The base class does not hear of that one, but it runs: if nobody waited for it, it would go on after all is cleaned up.
    """

    def __init__(self, threads: int, begin: Callable[[], None] = lambda: None) -> None:
        self._begun: list[Thread] = []
        super().__init__(threads, initializer=partial(_begin, self._begun, begin))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        while wait and self._begun:
            self._begun.pop().join()


def _begin(begun: list[Thread], begin: Callable[[], None]) -> None:
    begun.append(current_thread())
    begin()


def processors() -> int:
    """How many threads can work at once: processors that this process may use, which in a container can be a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ahead(threads: int, function: Callable[[T], R], items: Iterable[T], ahead: int = _AHEAD) -> Generator[R, None, None]:
    """What a function gives for each item, in their order, at most `ahead` items ahead of whoever takes it.

    Raises the function's error where its result would come. After that, or when it is closed, no other item is begun, and those
    that are begun are waited for: they end where they ask `check_wanted`.
    """
    with begun_ahead(threads, function, items, ahead) as results:
        yield from results


@contextmanager
def begun_ahead(
    threads: int, function: Callable[[T], R], items: Iterable[T], ahead: int = _AHEAD
) -> Iterator[Generator[R, None, None]]:
    """As `map_ahead`, inside of `with`: the work begins there, before anybody takes the first result, and ends with it."""
    stop = Event()
    with Threads(threads, partial(setattr, _of_thread, "stop", stop)) as workers:
        waiting: deque[Future[R]] = deque()
        left = iter(items)

        def begin(count: int) -> None:
            waiting.extend(workers.submit(function, item) for item in islice(left, count))

        def results() -> Generator[R, None, None]:
            while waiting:
                yield waiting.popleft().result()
                begin(1)

        try:
            begin(ahead + 1)
            yield results()
        finally:
            stop.set()
            waiting.clear()  # what came and nobody took
            workers.shutdown(wait=False, cancel_futures=True)


def check_wanted() -> None:
    """CancelledError in a thread of `map_ahead` from which nobody wants anything any more: for what takes long to ask often."""
    stop: Event | None = getattr(_of_thread, "stop", None)
    if stop and stop.is_set():
        raise CancelledError("nobody waits for this any more")
