"""A time out of range is refused in a sentence, at the line that asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from segue.errors import ContractError
from segue.saga import Retry, Saga, saga
from tests.unit.saga.kit import Order, charge, decision

Wait = Callable[[Saga, Order], Awaitable[Any]]


async def in_time(seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.sleep(1)


WAITS: dict[str, Wait] = {
    "a sleep": lambda s, order: asyncio.sleep(1e14),
    "a sleep for ever": lambda s, order: asyncio.sleep(float("inf")),
    "a sleep of no number": lambda s, order: asyncio.sleep(float("nan")),
    "a scope": lambda s, order: in_time(1e14),
    "a scope of no number": lambda s, order: in_time(float("nan")),
    "a call": lambda s, order: s.call(charge, order, timeout=timedelta.max),
    "a wait for a signal": lambda s, order: s.receive(decision, timeout=timedelta.max),
}


@pytest.mark.parametrize("what", WAITS)
def test_code_that_asks_for_a_time_out_of_range_is_blocked_with_the_longest_one(begin: Any, what: str) -> None:
    @saga("endless")
    async def endless(s: Saga, order: Order) -> None:
        await WAITS[what](s, order)

    run = begin(endless)
    assert (run.state.attention, run.state.blocked.code) == ("blocked", "ContractError")
    assert "the longest is" in run.state.blocked.message
    assert "(test_durations.py:" in run.state.blocked.message


def test_a_number_in_place_of_a_time_is_refused_with_what_to_write(begin: Any) -> None:
    @saga("number")
    async def number(s: Saga, order: Order) -> None:
        await s.call(charge, order, timeout=30)  # type: ignore[call-overload]

    assert "timeout=30, it must be a timedelta: minutes(5)" in begin(number).state.blocked.message


@pytest.mark.parametrize("times", [{"deadline": timedelta.max}, {"compensation_timeout": timedelta.max}])
def test_a_saga_with_a_bound_out_of_range_is_refused_where_it_is_defined(times: Any) -> None:
    with pytest.raises(ContractError, match="the longest is"):
        saga("endless", **times)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"maximum": timedelta.max}, "maximum="),
        ({"initial": timedelta.max, "maximum": timedelta.max}, "initial="),
        ({"budget": timedelta.max}, "budget="),
        ({"silence": timedelta.max}, "silence="),
        ({"attempt_timeout": timedelta.max}, "attempt_timeout="),
        ({"factor": float("inf")}, "factor=inf, the greatest is 1000"),
    ],
)
def test_a_policy_out_of_range_is_refused_where_it_is_used(begin: Any, policy: Any, said: str) -> None:
    @saga("endless")
    async def endless(s: Saga, order: Order) -> None:
        await s.call(charge, order, retry=Retry(**policy))

    blocked = begin(endless).state.blocked
    assert (blocked.code, said in blocked.message) == ("ContractError", True)
    with pytest.raises(ContractError, match="saga 'undone': compensation: " + said):
        saga("undone", compensation=Retry(**policy))


def test_a_heartbeat_timeout_out_of_range_is_refused(begin: Any) -> None:
    @saga("endless")
    async def endless(s: Saga, order: Order) -> None:
        await s.call(charge, order, heartbeat_timeout=timedelta.max)

    assert "heartbeat_timeout=" in begin(endless).state.blocked.message


def test_a_factor_that_is_no_number_is_refused() -> None:
    with pytest.raises(ContractError, match="factor=nan"):
        Retry(factor=float("nan"))
