"""A saga whose code fails is told of in the log, every time, with its lines and without its payloads."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from segue.coordinator.memory import MemoryStore
from segue.coordinator.view import make_view
from segue.saga import Saga, saga
from tests.unit.coordinator.kit import Estate, ManualClock
from tests.unit.saga.kit import Order, charge


@saga("buggy")
async def buggy(s: Saga, order: Order) -> None:
    await s.call(charge, order)
    inner(order)


def inner(order: Order) -> None:
    raise KeyError(f"secret {order.account}")


def blocked(count: int) -> Estate:
    clock = ManualClock()
    running = Estate(MemoryStore(clock.now), [buggy], clock)
    for n in range(count):
        running.start(buggy, Order(account="4711"), f"x-{n}")
    running.run()
    return running


def test_every_block_is_logged_with_the_lines_of_the_code_and_no_payload(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segue"):
        blocked(3)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("saga.blocked")]
    assert sorted(line.split()[1] for line in told) == ["saga=x-0", "saga=x-1", "saga=x-2"]
    assert "definition=buggy v1 error=KeyError" in told[0]
    lines = [line.strip() for line in told[0].split("\n  | ")]
    within, source = lines[lines.index("inner(order)") - 1], lines[lines.index("inner(order)") + 1 :]
    assert within.endswith("in buggy"), "a whole traceback: where it was, and what it came from"
    assert source[0].endswith("in inner")
    assert source[1].startswith("raise KeyError(")
    assert source[-1] == "KeyError"
    assert "4711" not in told[0]


def test_what_made_a_failure_is_logged_with_it(caplog: pytest.LogCaptureFixture) -> None:
    @saga("wrapped")
    async def wrapped(s: Saga, order: Order) -> None:
        try:
            inner(order)
        except KeyError as error:
            raise ValueError("no such account") from error

    clock = ManualClock()
    running = Estate(MemoryStore(clock.now), [wrapped], clock)
    running.start(wrapped, Order(account="4711"), "x-1")
    with caplog.at_level(logging.WARNING, "segue"):
        running.run()
    [told] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("saga.blocked")]
    assert "raise KeyError(" in told
    assert told.index("KeyError") < told.rindex("ValueError")
    assert "4711" not in told


def test_a_block_that_lasts_is_not_told_again_at_each_message(caplog: pytest.LogCaptureFixture) -> None:
    running = blocked(1)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "segue"):
        running.request("signal", "x-0", "word", 1)
        running.run()
    assert not [record for record in caplog.records if record.getMessage().startswith("saga.blocked")]


def test_where_a_saga_failed_is_shown() -> None:
    running = blocked(1)
    store: Any = running.store
    view = make_view(store.tables.sagas["x-0"], store.tables.events["x-0"], store.now())
    assert [line.partition(", ")[2] for line in view.where] == [
        'in inner: raise KeyError(f"secret {order.account}")',
        "in buggy: inner(order)",
    ]
