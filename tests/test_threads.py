"""Threads that are a bounded number of items ahead, and stop when nobody wants more."""

from __future__ import annotations

import os
import signal
from concurrent.futures import CancelledError
from contextlib import closing
from itertools import count
from threading import Event, get_ident

import pytest

from ttbert.threads import Threads, check_wanted, map_ahead, processors


def test_results_come_in_the_order_of_the_items() -> None:
    second = Event()

    def wait_for_the_second(item: int) -> int:
        if item == 2:
            second.set()
        assert second.wait(60)
        return item * item

    assert list(map_ahead(2, wait_for_the_second, [1, 2, 3])) == [1, 4, 9]


def test_no_more_is_begun_than_was_to_be_ahead() -> None:
    items = count()
    with closing(map_ahead(2, str, items, ahead=5)) as results:
        assert [next(results), next(results)] == ["0", "1"]
        assert next(items) == 7


def test_an_error_comes_in_the_place_of_its_result_and_ends_all() -> None:
    done = []

    def divide(item: int) -> float:
        done.append(item)
        return 1 / item

    results = map_ahead(1, divide, [1, 0, *range(2, 1000)], ahead=1)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [] and len(done) <= 3


def test_who_is_at_work_is_told_when_nobody_wants_more() -> None:
    begun, told = Event(), []

    def work(item: int) -> int:
        check_wanted()
        if item:
            begun.set()
            with pytest.raises(CancelledError):
                while True:
                    check_wanted()
            told.append(item)
        return get_ident()

    with closing(map_ahead(2, work, range(1000))) as results:
        assert next(results) != get_ident()
        assert begun.wait(60) and not told
    assert told and len(told) <= 2
    check_wanted()
    assert list(map_ahead(2, lambda item: check_wanted(), [1])) == [None]


def test_a_thread_in_whose_start_ctrl_c_came_is_waited_for() -> None:
    over = Event()

    def work() -> None:
        Event().wait(0.2)
        over.set()

    with pytest.raises(KeyboardInterrupt), Threads(1, lambda: os.kill(os.getpid(), signal.SIGINT)) as threads:
        threads.submit(work)
        Event().wait(60)  # Ctrl-C ends this at the latest
    assert over.is_set()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_processors_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert processors() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
