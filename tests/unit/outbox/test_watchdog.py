"""The watchdog cuts what takes too long, and nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from segue.outbox.watchdog import Watchdog

PATIENCE = 10.0


def test_a_call_beyond_its_deadline_is_cut_once() -> None:
    cuts: list[int] = []
    cut = threading.Event()
    watchdog = Watchdog(timedelta(milliseconds=20), fired=lambda: cuts.append(1))
    guard = watchdog.guard(cut.set)

    with guard:
        assert cut.wait(PATIENCE)

    watchdog.close()
    assert guard.fired
    assert cuts == [1]


def test_a_call_that_ends_in_time_is_not_cut_while_another_one_is() -> None:
    late, quick = threading.Event(), threading.Event()
    watchdog = Watchdog(timedelta(milliseconds=500))
    slow_guard, quick_guard = watchdog.guard(late.set), watchdog.guard(quick.set)

    with slow_guard:
        while not late.is_set():
            with quick_guard:
                assert not quick.is_set()

    watchdog.close()
    assert not quick_guard.fired


def test_a_call_after_a_long_rest_is_watched_again() -> None:
    watchdog = Watchdog(timedelta(milliseconds=10))
    for _ in range(5):
        cut = threading.Event()
        with watchdog.guard(cut.set):
            assert cut.wait(PATIENCE)
    watchdog.close()


def test_arming_ten_thousand_times_starts_one_thread_which_ends_with_close() -> None:
    before = threading.active_count()
    watchdog = Watchdog(timedelta(seconds=60))
    guard = watchdog.guard(lambda: None)
    for _ in range(10_000):
        with guard:
            pass
    assert threading.active_count() == before + 1

    watchdog.close()
    watchdog.close()

    assert threading.active_count() == before
    assert not guard.fired


def test_a_watchdog_that_was_never_needed_has_no_thread() -> None:
    before = threading.active_count()
    Watchdog(timedelta(seconds=1)).close()
    assert threading.active_count() == before


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` says in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_watched_over_too_and_cuts_nothing_of_its_parent() -> None:
    watchdog = Watchdog(timedelta(milliseconds=200))
    cut: list[str] = []
    of_parent = watchdog.guard(lambda: cut.append("parent's"))

    def call() -> bool:
        late = threading.Event()
        with watchdog.guard(late.set):
            return late.wait(PATIENCE) and not cut

    with of_parent:
        watched = in_child(call)
    watchdog.close()
    assert watched
