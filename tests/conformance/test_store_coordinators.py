"""Coordinators of two names on one database: whatever one of them looks for, it finds its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.coordinator.store import Changes, Store
from segue.saga import events as e
from tests.conformance.store_kit import COORDINATOR, ORDER, T0, Bench, event, letter, locked, request, saga, write

OTHER = "other"
LATER = T0 + timedelta(days=1)


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store()


def started(coordinator: str, **values: Any) -> Any:
    first = e.Started(coordinator=coordinator, definition="order", version=1, input=e.NULL)
    return msgspec.structs.replace(event(**values), payload=e.encode_events([first]))


def test_alarms_and_versions_are_those_of_its_own_sagas(store: Store) -> None:
    write(store, started=[saga("a", wake_at=T0), saga("b", wake_at=T0, coordinator=OTHER, definition="refund")])
    versions = [*ORDER, ("refund", 1)]

    with store.batch() as batch:
        assert [row.id for row in batch.due(COORDINATOR, LATER, 10, versions)] == ["a"]
        assert [row.id for row in batch.due(OTHER, LATER, 10, versions)] == ["b"]
        assert batch.due("third", LATER, 10, versions) == []
    assert store.look(COORDINATOR, versions).alarm_at == T0
    assert store.look("third", versions).alarm_at is None
    assert store.live_versions(COORDINATOR) == ORDER
    assert store.live_versions(OTHER) == [("refund", 1)]


def test_requests_about_anothers_saga_or_dead_letter_are_left_to_it(store: Store) -> None:
    write(store, started=[saga("a")], dead_letters=[letter(1)])
    [number] = [n for n in range(1, 9) if _letter_is_there(store, n)]
    store.ask([request(saga_id="a"), request(saga_id=None, dead_letter_id=number), request(saga_id="nowhere")])

    with store.batch() as batch:
        assert [row.saga_id for row in batch.requests(OTHER, 10)] == ["nowhere"]
    with store.batch() as batch:
        assert [row.saga_id for row in batch.requests(COORDINATOR, 10)] == ["a", None, "nowhere"]
    with store.batch() as batch:
        batch.write(_done(batch, OTHER))
    assert not store.look(OTHER, ORDER).requests
    assert store.look(COORDINATOR, ORDER).requests


def test_parked_records_are_folded_and_swept_by_who_has_read_them(store: Store) -> None:
    write(
        store,
        started=[saga("a"), saga("b", coordinator=OTHER)],
        dead_letters=[
            letter(1, state="parked", saga_id="a"),
            letter(2, state="parked", saga_id="b"),
            letter(3, state="parked", saga_id="a", coordinator=OTHER),
            letter(4, state="parked", saga_id="a", coordinator=""),
        ],
    )

    with store.batch() as batch:
        assert [row.record.offset for row in batch.foldable(COORDINATOR, ["order"], 10)] == [1, 4]
        assert batch.foldable(OTHER, ["order"], 10) == []
    assert store.look(COORDINATOR, ORDER).parked
    assert not store.look(OTHER, ORDER).parked
    assert store.sweep(OTHER, LATER, 10) == 2
    assert store.sweep(COORDINATOR, LATER, 10) == 2


def test_a_start_is_kept_for_whoever_has_its_type_for_as_long_as_it_takes(store: Store) -> None:
    write(store, dead_letters=[letter(1, state="parked", saga_id="a", definition="refund")])

    with store.batch() as batch:
        assert batch.foldable(COORDINATOR, ["order"], 10) == []
        assert batch.foldable(OTHER, ["refund"], 10) == []
        [found] = batch.foldable(COORDINATOR, ["order", "refund"], 10)
    assert found.definition == "refund"
    assert not store.look(COORDINATOR, ORDER).parked
    assert store.look(COORDINATOR, [("refund", 3)]).parked
    assert store.sweep(COORDINATOR, LATER, 10) == 0


def test_what_a_version_before_wrote_is_given_to_whom_its_history_names(store: Store) -> None:
    write(
        store,
        started=[
            saga("a", coordinator=""),
            saga("b", coordinator="", first_seq=7, revision=7),
            saga("c", coordinator="", ended_at=T0, status="completed"),
            saga("d"),
        ],
        events=[
            started(OTHER, saga_id="a"),
            started(COORDINATOR, saga_id="b", seq=7),
            started("third", saga_id="c"),
            started(OTHER, saga_id="d"),
        ],
    )

    assert store.assign(1, live=True) == 1
    assert store.assign(10, live=True) == 1
    assert locked(store, "c")["c"].coordinator == ""
    assert store.assign(10, live=False) == 1
    assert store.assign(10, live=False) == 0
    assert [row.coordinator for row in locked(store, "a", "b", "c", "d").values()] == [
        OTHER,
        COORDINATOR,
        "third",
        COORDINATOR,
    ]


def test_the_coordinator_of_a_saga_does_not_change(store: Store) -> None:
    write(store, started=[saga("a")])
    write(store, updated=[saga("a", revision=2, coordinator=OTHER)], expected={"a": 1})

    assert locked(store, "a")["a"].coordinator == COORDINATOR


def _letter_is_there(store: Store, number: int) -> bool:
    with store.batch() as batch:
        return number in batch.dead_letters([number])


def _done(batch: Any, coordinator: str) -> Any:
    return Changes(requests_done=[row.id for row in batch.requests(coordinator, 10)])
