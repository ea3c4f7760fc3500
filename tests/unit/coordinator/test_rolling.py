"""A rolling deploy: starts of a type, and commands for an activity, that are not everywhere yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from segue.contract import minutes
from segue.coordinator.memory import MemoryStore
from segue.saga import Saga, saga
from segue.topics.envelope import Command
from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import Order, charge, refund

Make = Callable[..., Estate]


@saga("old")
async def old(s: Saga, n: int) -> int:
    return n


@saga("new")
async def new(s: Saga, n: int) -> int:
    return n


@saga("charged")
async def charged(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund, timeout=minutes(5))


def letters(e: Estate) -> list[tuple[str, str]]:
    assert isinstance(e.store, MemoryStore)
    return [(letter.state, letter.reason) for letter in e.store.tables.letters.values()]


def test_a_start_that_an_old_coordinator_reads_is_carried_out_by_a_new_one(estate: Make) -> None:
    e = estate(old)
    e.coordinators.append(e.coordinator([old, new]))
    e.run()
    for n in range(8):
        e.start(new, n, f"n-{n}")
    e.run(300)
    e.pass_time(timedelta(seconds=5))

    assert [e.saga(f"n-{n}").status for n in range(8)] == ["completed"] * 8
    assert set(letters(e)) <= {("replayed", "unknown_saga_type")}


def test_a_start_is_kept_until_its_type_is_deployed_and_not_for_a_day_only(estate: Make) -> None:
    e = estate(old)
    e.start(new, 1, "n-1")
    e.run()
    e.pass_time(timedelta(days=3))
    e.pass_time(timedelta(minutes=2))
    assert letters(e) == [("parked", "unknown_saga_type")]
    assert e.dead() == []

    e.coordinators[0].close()
    e.coordinators[:] = [e.coordinator([old, new])]
    e.run()
    e.pass_time(timedelta(seconds=5))

    assert e.saga("n-1").status == "completed"


def lacking(command: Command) -> Any:
    return ("retry", {"message": "no handler"}, {"error": "unknown_activity", "mismatch": True})


def test_workers_that_lack_an_activity_spend_no_attempt_and_undo_nothing(estate: Make) -> None:
    e = estate(charged)
    e.answers["payments.charge"] = lacking
    e.start(charged, Order(), "o-1")
    e.run()
    for _ in range(40):
        e.pass_time(timedelta(seconds=5))
    attempts = [command.attempt for command in e.commands]
    assert len(set(attempts)) > 5, "more than the policy allows"
    assert attempts == sorted(set(attempts)), "a new command each time"
    assert len({command.key for command in e.commands}) == 1
    assert e.saga("o-1").status == "running"
    assert e.saga("o-1").waiting_for == "a worker to which payments.charge fits (unknown_activity)"

    del e.answers["payments.charge"]
    for _ in range(12):
        e.pass_time(timedelta(seconds=10))

    assert e.saga("o-1").status == "completed"


def test_workers_of_the_version_before_refuse_nothing_where_they_lack_an_activity(estate: Make) -> None:
    e = estate(charged)
    e.answers["payments.charge"] = lambda command: ("failure", {}, {"error": "unknown_activity"})
    e.start(charged, Order(), "o-1")
    e.run()
    for _ in range(20):
        e.pass_time(timedelta(seconds=30))

    assert (e.saga("o-1").status, e.saga("o-1").attention) == ("running", "parked")
    assert e.saga("o-1").error_code == "unknown_activity"
