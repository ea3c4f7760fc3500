"""A signal that should have come by now: the saga is overdue, and waits on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest

from segue.clock import from_micros
from segue.contract import Signal, hours, minutes
from segue.coordinator.projection import row_of
from segue.coordinator.view import is_overdue
from segue.saga import Saga, saga
from segue.saga.inputs import SignalArrived
from segue.saga.steps import NEVER
from segue.saga.transition import advance, start
from segue.saga.turn import Instance
from segue.topics.converter import Converter

decision = Signal("decision", str)
comment = Signal("comment", str)


@saga("reviewed")
async def reviewed(s: Saga, order: int) -> str:
    return await s.receive(decision, expected=hours(4))


@saga("both")
async def both(s: Saga, order: int) -> list[str]:
    return list(await asyncio.gather(s.receive(decision, expected=hours(4)), s.receive(comment, expected=minutes(5))))


def started(definition: object = reviewed) -> Instance:
    instance, _ = start("o-1", definition, Converter(), coordinator="c", input=b"1", now=1_000_000)  # type: ignore[arg-type]
    return instance


def after(seconds: float) -> int:
    return 1_000_000 + round(seconds * 1_000_000)


def test_a_saga_is_overdue_once_the_signal_that_it_expects_is_late() -> None:
    row = row_of(started().state, None)
    assert row.expected_at == from_micros(after(4 * 3600))
    assert not is_overdue(row, from_micros(after(4 * 3600)))
    assert is_overdue(row, from_micros(after(4 * 3600 + 1)))


def test_the_signal_that_should_be_here_first_counts_and_no_wait_that_is_over() -> None:
    instance = started(both)
    assert instance.state.expected_at == after(300)
    advance(instance, SignalArrived(name="comment", payload=msgspec.Raw(b'"ok"')), after(60))
    assert instance.state.expected_at == after(4 * 3600)
    advance(instance, SignalArrived(name="decision", payload=msgspec.Raw(b'"ok"')), after(61))
    assert instance.state.expected_at == NEVER
    assert row_of(instance.state, None).expected_at is None


@pytest.mark.parametrize("expected", [timedelta(0), timedelta(-1), timedelta.max])
def test_a_time_that_can_not_be_is_refused_at_the_call(expected: timedelta) -> None:
    @saga("odd")
    async def odd(s: Saga, order: int) -> str:
        return await s.receive(decision, expected=expected)

    blocked = started(odd).state.blocked
    assert blocked is not None
    assert blocked.message.startswith("signal decision: expected=")
