"""Heartbeats in an estate: a row beside the history, read when an alarm rings, gone when the command is answered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from segue.coordinator.memory import MemoryStore
from segue.coordinator.view import make_view
from segue.ids import derive
from segue.saga import Saga, saga
from segue.topics.envelope import Reply
from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import OUTPUTS, Order, charge, refund

Make = Callable[..., Estate]
SECOND = timedelta(seconds=1)


@saga("indexing")
async def indexing(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund, heartbeat_timeout=30 * SECOND)


def working(estate: Make) -> tuple[Estate, MemoryStore]:
    e = estate(indexing)
    e.silent.add("payments.charge")
    e.start(indexing, Order(), "i-1")
    e.run()
    assert isinstance(e.store, MemoryStore)
    return e, e.store


def beat(e: Estate, n: int) -> None:
    command = e.commands[-1]
    sign = Reply(id=derive("beat", str(n)), command_id=command.id, outcome="pending", saga_id="i-1", time=e.clock.now())
    e.send(command.reply_to, "i-1", msgspec.json.encode({"done": n}), sign.headers())
    for coordinator in e.coordinators:
        coordinator.step()


def test_heartbeats_leave_the_saga_as_it_is(estate: Make) -> None:
    e, store = working(estate)
    beat(e, 0)
    revision = e.saga("i-1").revision
    for n in range(1, 5):
        e.clock.advance(SECOND)
        beat(e, n)
    assert e.saga("i-1").revision == revision
    [row] = store.tables.heartbeats.values()
    assert (row.saga_id, row.details, row.count) == ("i-1", b'{"done":4}', 4)
    assert row.at == e.clock.now()


def test_a_saga_that_was_brought_back_finds_the_signs_of_life_of_its_steps(estate: Make) -> None:
    e, _ = working(estate)
    for n in range(20):
        e.clock.advance(20 * SECOND)
        beat(e, n)
        e.coordinators[0]._cache.clear()
    assert e.saga("i-1").status == "running"
    assert e.sent() == ["payments.charge"]
    e.run()
    e.pass_time(31 * SECOND)
    assert e.sent() == ["payments.charge"] * 2
    for _ in range(60):
        e.pass_time(10 * SECOND)
    assert e.saga("i-1").status == "compensated"


def test_what_is_answered_has_no_signs_left(estate: Make) -> None:
    e, store = working(estate)
    for n in range(3):
        beat(e, n)
        e.clock.advance(SECOND)
    e.reply(e.commands[-1], body=OUTPUTS["payments.charge"])
    e.run()
    assert e.saga("i-1").status == "completed"
    assert store.tables.heartbeats == {}


def test_a_saga_shows_how_far_its_steps_are_and_how_long_they_have(estate: Make) -> None:
    e, store = working(estate)
    for n in range(3):
        e.clock.advance(20 * SECOND)
        beat(e, n)
    kept = {row.command_id: row for row in store.tables.heartbeats.values()}
    now: Any = e.clock.now()
    view = make_view(e.saga("i-1"), store.tables.events["i-1"], now, heartbeats=kept)
    [step] = view.steps
    assert bytes(step.progress) == b'{"done":2}'
    assert step.alive_at == now
    assert view.waits[0].until == now + timedelta(minutes=5)


def test_the_command_says_how_long_its_handler_may_be_silent(estate: Make) -> None:
    e, _ = working(estate)
    assert e.commands[-1].heartbeat == 30.0
