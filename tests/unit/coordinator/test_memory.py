"""What is special about the fake: batches that overlap in one thread, of which the second is fenced at its end."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import msgspec
import pytest

from segue.coordinator.memory import MemoryStore
from segue.coordinator.store import Changes
from segue.errors import Fenced
from tests.conformance.store_kit import (
    COORDINATOR,
    P0,
    T0,
    event,
    history,
    letter,
    locked,
    move,
    offset,
    request,
    saga,
    write,
)


def _overlap(store: MemoryStore, first: Changes, second: Changes) -> None:
    """Both batches are written before either ends; the first one ends first."""
    with ExitStack() as inner, store.batch() as late:
        early = inner.enter_context(store.batch())
        early.write(first)
        late.write(second)
        inner.close()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(lambda: T0)


def test_of_two_overlapping_moves_of_one_offset_the_second_is_fenced(store: MemoryStore) -> None:
    store.seed_offsets(COORDINATOR, {P0: offset(5)})

    def run() -> None:
        with ExitStack() as inner, store.batch() as late:
            early = inner.enter_context(store.batch())
            early.fence(COORDINATOR, [move(5, 6)])
            late.fence(COORDINATOR, [move(5, 7)])
            inner.close()

    with pytest.raises(Fenced):
        run()
    assert store.offsets(COORDINATOR)[P0].next == 6


def test_of_two_overlapping_updates_of_one_saga_the_second_is_fenced_whole(store: MemoryStore) -> None:
    write(store, started=[saga("o-1"), saga("o-2")])
    first = Changes(updated=[saga("o-1", revision=2, step="first")])
    second = Changes(
        updated=[saga("o-2", revision=2), saga("o-1", revision=2, step="second")], events=[event("o-2", 2)]
    )

    with pytest.raises(Fenced):
        _overlap(store, first, second)

    assert locked(store, "o-1", "o-2") == {"o-1": saga("o-1", revision=2, step="first"), "o-2": saga("o-2")}
    assert history(store, "o-2") == []


def test_of_two_overlapping_starts_of_one_saga_the_second_is_fenced(store: MemoryStore) -> None:
    with pytest.raises(Fenced):
        _overlap(store, Changes(started=[saga(step="first")]), Changes(started=[saga(step="second")]))
    assert locked(store, "o-1") == {"o-1": saga(step="first")}


def test_a_request_is_dealt_with_by_one_of_two_overlapping_batches(store: MemoryStore) -> None:
    [number] = store.ask([request()])
    with pytest.raises(Fenced):
        _overlap(store, Changes(requests_done=[number]), Changes(requests_done=[number]))


def test_what_a_batch_has_read_stays_as_it_was_whatever_others_commit(store: MemoryStore) -> None:
    write(store, started=[saga()], events=[event()], dead_letters=[letter(1)])
    with store.batch() as batch:
        row, events, dead = batch.lock(["o-1"])["o-1"], batch.history(["o-1"])["o-1"], batch.dead_letters([1])[1]
        write(
            store, updated=[msgspec.structs.replace(row, revision=2)], events=[event(seq=2)], settled={1: "discarded"}
        )

    assert (row, events, dead.state) == (saga(), [event()], "dead")


def test_time_is_that_of_the_clock_it_was_given_and_stands_still_in_a_batch() -> None:
    moments = iter([T0 + n * timedelta(seconds=1) for n in range(9)])
    store = MemoryStore(lambda: next(moments))
    with store.batch() as batch:
        assert batch.now == batch.now == T0
    assert store.now() == T0 + timedelta(seconds=1)
