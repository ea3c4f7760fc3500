"""Signals at the coordinator: in the order of the topic, and a dead letter where nobody will receive them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from segue.contract import Signal
from segue.coordinator.memory import MemoryStore
from segue.coordinator.service import Options
from segue.coordinator.store import DeadLetterRow
from segue.saga import Saga, SagaFailed, saga
from tests.unit.coordinator.kit import Estate, ManualClock
from tests.unit.saga.kit import Order, charge, refund

word = Signal("word", str)
decision = Signal("decision", bool)


@saga("words")
async def words(s: Saga, n: int) -> list[str]:
    return [await s.receive(word) for _ in range(n)]


@saga("decided")
async def decided(s: Saga, order: Order) -> bool:
    return await s.receive(decision)


@saga("refunded")
async def refunded(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund)
    raise SagaFailed("no")


def estate(*definitions: Any, batch: int = 500) -> Estate:
    clock = ManualClock()
    return Estate(MemoryStore(clock.now), definitions, clock, options=Options(batch_size=batch))


def letters(running: Estate) -> list[DeadLetterRow]:
    assert isinstance(running.store, MemoryStore)
    return list(running.store.tables.letters.values())


@pytest.mark.parametrize("batch", [1, 2, 3, 500])
def test_signals_that_came_before_their_saga_are_received_before_those_that_came_after_it(batch: int) -> None:
    running = estate(words, batch=batch)
    running.request("signal", "x", "word", "s1")
    running.request("signal", "x", "word", "s2")
    running.start(words, 4, "x")
    running.request("signal", "x", "word", "s3")
    running.request("signal", "x", "word", "s4")
    running.run(200)
    assert running.saga("x").result == b'["s1","s2","s3","s4"]'
    assert not [letter for letter in letters(running) if letter.state in ("parked", "dead")]


def test_a_cancel_that_came_early_is_not_overtaken_by_a_signal() -> None:
    running = estate(words)
    running.request("cancel", "x", "all")
    running.run()
    running.start(words, 1, "x")
    running.request("signal", "x", "word", "s1")
    running.run()
    assert running.saga("x").status == "cancelled"


def test_a_signal_that_does_not_fit_is_a_dead_letter_with_its_saga_which_goes_on() -> None:
    running = estate(decided)
    running.start(decided, Order(), "x")
    running.request("signal", "x", "decision", {"aproved": True})
    running.run()
    [letter] = letters(running)
    assert (letter.state, letter.reason, letter.saga_id) == ("dead", "invalid_signal", "x")
    assert running.saga("x").attention == "none"
    running.request("signal", "x", "decision", True)
    running.run()
    assert running.saga("x").result == b"true"


def test_a_signal_that_did_not_fit_is_received_once_it_is_edited_and_replayed() -> None:
    running = estate(decided)
    running.start(decided, Order(), "x")
    running.request("signal", "x", "decision", "yes")
    running.run()
    [letter] = letters(running)
    running.ask("replay", letter=letter.id)  # as it is: it does not fit this time, either
    running.run()
    assert [(x.state, x.reason) for x in letters(running)] == [("dead", "invalid_signal")]
    running.ask("replay", letter=letter.id, value="dHJ1ZQ==")
    running.run()
    assert running.saga("x").result == b"true"
    assert [x.state for x in letters(running)] == ["replayed"]


def test_a_signal_that_is_not_received_by_the_end_of_its_saga_is_a_dead_letter_that_says_who_sent_it() -> None:
    running = estate(decided)
    running.start(decided, Order(), "x")
    running.request("signal", "x", "decison", True, message_id="m-7")
    running.request("signal", "x", "decision", True)
    running.run()
    [letter] = letters(running)
    assert (letter.reason, letter.saga_id, letter.record.value) == ("unreceived", "x", b"true")
    assert dict(letter.record.headers)["ce_id"] == b"m-7"
    assert "has not received the signal decison" in letter.error_message


def test_a_signal_parked_for_a_saga_that_never_receives_it_is_a_dead_letter_in_the_end() -> None:
    running = estate(decided)
    running.request("signal", "x", "other", 1)
    running.run()
    running.start(decided, Order(), "x")
    running.request("signal", "x", "decision", True)
    running.run()
    assert sorted((x.state, x.reason) for x in letters(running)) == [("dead", "unreceived"), ("replayed", "early")]


@pytest.mark.parametrize("undone", [False, True])
def test_a_signal_to_a_saga_whose_code_is_over_is_a_dead_letter_with_a_reason(undone: bool) -> None:
    running = estate(refunded)
    if not undone:
        running.silent.add("payments.refund")
    running.start(refunded, Order(), "x")
    running.run()
    running.request("signal", "x", "decision", True)
    running.run()
    [letter] = letters(running)
    assert (letter.reason, letter.saga_id) == ("saga_ended", "x")
    assert "nobody receives the signal decision any more" in letter.error_message


@pytest.mark.parametrize(
    ("again", "dead"), [("s1", []), ("s2", ["signal_conflict"])], ids=["the same", "another value"]
)
@pytest.mark.parametrize("together", [True, False])
def test_a_known_id_with_another_value_is_a_conflict_and_with_the_same_nothing(
    again: str, dead: list[str], together: bool
) -> None:
    running = estate(words)
    running.start(words, 2, "x")
    running.request("signal", "x", "word", "s1", message_id="m-1")
    if not together:
        running.run()
    running.request("signal", "x", "word", again, message_id="m-1")
    running.run()
    assert [letter.reason for letter in letters(running)] == dead
    assert running.saga("x").status == "running"


def test_what_ends_a_saga_by_a_replay_does_not_lose_its_signals() -> None:
    running = estate(decided)
    running.request("signal", "x", "decision", "odd")
    running.start(decided, Order(), "x")
    running.request("signal", "x", "other", 5)
    running.run()
    [letter] = letters(running)
    running.ask("replay", letter=letter.id, value="dHJ1ZQ==")
    running.pass_time(timedelta(seconds=1))
    assert running.saga("x").status == "completed"
    assert sorted((x.state, x.reason) for x in letters(running)) == [
        ("dead", "unreceived"),
        ("replayed", "invalid_signal"),
    ]
