"""Signals: whatever the code does with its waits, none is lost and none overtakes another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from segue.contract import Signal, hours, minutes
from segue.saga import Saga, SagaFailed, saga
from segue.saga import events as e
from segue.saga.effects import DropSignal, Ignored
from segue.saga.fold import fold
from segue.saga.replay import rebuild
from segue.topics.converter import Converter
from tests.unit.saga.kit import Order, charge, decision, refund

approve = Signal("approve", str)
comment = Signal("comment", str)


async def first(s: Saga, *signals: Signal[str]) -> list[str]:
    """Whichever comes first; the other wait is cancelled."""
    waits = [asyncio.ensure_future(s.receive(signal)) for signal in signals]
    done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in rest:
        wait.cancel()
    return [wait.result() for wait in waits if wait in done]


def test_a_signal_on_its_way_to_a_wait_that_is_cancelled_is_received_by_the_next_one(begin: Any) -> None:
    @saga("either")
    async def either(s: Saga, order: Order) -> list[str]:
        await s.call(charge, order)
        return await first(s, approve, comment) + await first(s, approve, comment)

    run = begin(either)
    run.signal(approve, "A")
    run.signal(comment, "C")
    run.reply("payments.charge")
    assert (run.status, run.result) == ("completed", ["A", "C"])


def test_a_look_without_waiting_leaves_the_signal_to_who_looks_next(begin: Any) -> None:
    @saga("poll")
    async def poll(s: Saga, order: Order) -> str:
        await s.call(charge, order)
        try:
            async with asyncio.timeout(0):
                return "first " + await s.receive(approve)
        except TimeoutError:
            return "second " + await s.receive(approve, timeout=minutes(10))

    run = begin(poll)
    run.signal(approve, "A")
    run.reply("payments.charge")
    assert run.result == "second A"


def test_a_signal_that_came_while_the_code_was_blocked_is_received_once_the_code_is_mended(begin: Any) -> None:
    broken = True

    @saga("reviewed")
    async def reviewed(s: Saga, order: Order) -> str:
        for _ in range(3):
            try:
                return await s.receive(approve, timeout=hours(1))
            except TimeoutError:
                if broken:
                    raise KeyError("template") from None
        return "nobody"

    run = begin(reviewed)
    run.wake(hours(1))
    assert run.attention == "blocked"
    run.signal(approve, "A")
    broken = False
    run.retry_blocked()
    assert (run.status, run.result) == ("completed", "A")


def test_signals_given_back_out_of_order_are_received_in_the_order_in_which_they_came(begin: Any) -> None:
    @saga("two-waits")
    async def two_waits(s: Saga, order: Order) -> list[str]:
        await s.call(charge, order)
        waits = [asyncio.ensure_future(s.receive(approve)) for _ in range(3)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits[1:]:
            wait.cancel()
        return [waits[0].result()] + [await s.receive(approve) for _ in range(3)]

    run = begin(two_waits)
    for value in "ABCD":
        run.signal(approve, value)
    run.reply("payments.charge")
    assert run.result == ["A", "B", "C", "D"]


def test_a_wait_that_ends_leaves_its_signal_to_another_that_waits_already(begin: Any) -> None:
    """Both wait; while the code is blocked one of them is handed a signal, and its time passes."""
    broken = True

    @saga("both")
    async def both(s: Saga, order: Order) -> str:
        async def impatient() -> str:
            try:
                return await s.receive(approve, timeout=minutes(1))
            except TimeoutError:
                if broken:
                    raise ValueError("a bug") from None
                return "none"

        return " ".join(await asyncio.gather(impatient(), s.receive(approve)))

    run = begin(both)
    run.wake(minutes(1))
    run.signal(approve, "A")
    broken = False
    run.retry_blocked()
    assert run.result == "none A"


def test_a_signal_that_does_not_fit_is_given_up_and_the_wait_goes_on(begin: Any) -> None:
    @saga("decided")
    async def decided(s: Saga, order: Order) -> bool:
        return await s.receive(decision)

    run = begin(decided)
    moved = run.signal(decision, {"approved": True})
    [dropped] = [effect for effect in moved.effects if isinstance(effect, DropSignal)]
    assert (dropped.reason, run.attention) == ("invalid_signal", "none")
    assert "the signal decision does not fit the declared type" in dropped.message
    run.signal(decision, True)
    assert run.result is True


def test_a_signal_that_does_not_fit_does_not_keep_back_those_behind_it(begin: Any) -> None:
    @saga("late-reader")
    async def late_reader(s: Saga, order: Order) -> list[bool]:
        await s.call(charge, order)
        return [await s.receive(decision), await s.receive(decision)]

    run = begin(late_reader)
    for value in ("odd", True, 7, False):
        run.signal(decision, value)
    run.reply("payments.charge")
    assert run.result == [True, False]


def test_signals_that_nobody_has_received_are_given_up_with_their_saga(begin: Any) -> None:
    @saga("deaf")
    async def deaf(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        raise SagaFailed("no")

    run = begin(deaf)
    run.signal(decision, True)
    run.reply("payments.charge")
    moved = run.undone("payments.charge")
    [dropped] = [effect for effect in moved.effects if isinstance(effect, DropSignal)]
    assert (dropped.reason, dropped.signal.signal) == ("unreceived", "decision")
    assert "has not received the signal decision" in dropped.message


def test_a_signal_that_is_handed_over_as_the_code_ends_is_given_up_and_not_lost(begin: Any) -> None:
    @saga("hasty")
    async def hasty(s: Saga, order: Order) -> str:
        await s.call(charge, order)
        waits = [asyncio.ensure_future(s.receive(approve)) for _ in range(2)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[0].result()

    run = begin(hasty)
    run.signal(approve, "A")
    run.signal(approve, "B")
    moved = run.reply("payments.charge")
    [dropped] = [effect for effect in moved.effects if isinstance(effect, DropSignal)]
    assert (run.result, bytes(dropped.signal.payload)) == ("A", b'"B"')


def test_a_signal_to_a_saga_whose_code_is_over_is_refused(begin: Any) -> None:
    @saga("brief")
    async def brief(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        raise SagaFailed("no")

    run = begin(brief)
    run.reply("payments.charge")
    assert run.signal(decision, True) == Ignored("stopping", "the saga's code has ended")
    run.undone("payments.charge")
    assert run.signal(decision, True) == Ignored("ended", "the saga is compensated")


def test_a_history_from_before_signals_were_given_back_is_replayed_as_it_was() -> None:
    """Then the second signal was lost; a saga that has gone on without it must not be blocked for it now."""

    @saga("either")
    async def either(s: Saga, order: Order) -> list[str]:
        await s.call(charge, order)
        return await first(s, approve, comment) + await first(s, approve, comment)

    converter = Converter()
    order = converter.to_bytes(Order(), Order)
    history = [
        b'[{"e":"started","coordinator":"test","definition":"either","version":1,"input":%b},'
        b'{"e":"stepscheduled","step":"payments.charge","input":%b},{"e":"commandsent","step":"payments.charge"}]'
        % (order, order),
        b'[{"e":"signalreceived","signal":"approve","payload":"A"}]',
        b'[{"e":"signalreceived","signal":"comment","payload":"C"}]',
        b'[{"e":"stepsucceeded","step":"payments.charge","output":{"charge_id":"ch-1"}},'
        b'{"e":"receivestarted","n":1,"signal":"approve"},{"e":"receivestarted","n":2,"signal":"comment"},'
        b'{"e":"receivecancelled","n":2},'
        b'{"e":"receivestarted","n":3,"signal":"approve"},{"e":"receivestarted","n":4,"signal":"comment"}]',
    ]
    rows = [(1_000 + n, payload) for n, payload in enumerate(history)]
    instance = rebuild("s-1", rows, either, converter)
    assert dict(instance.state.receives) == {3: "approve", 4: "comment"}
    assert fold("s-1", rows).signals == {"approve": [], "comment": []}


@pytest.mark.parametrize("sender", ["", "ann"])
def test_the_history_says_who_sent_a_signal(begin: Any, sender: str) -> None:
    @saga("decided")
    async def decided(s: Saga, order: Order) -> bool:
        return await s.receive(decision)

    run = begin(decided)
    run.signal(decision, True, id="m-1", sender=sender)
    [received] = [x for _, p in run.rows for x in e.decode_events(p) if isinstance(x, e.SignalReceived)]
    assert (received.id, received.sender) == ("m-1", sender)
