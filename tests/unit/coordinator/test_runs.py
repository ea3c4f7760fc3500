"""Sagas of several runs in an estate: one row, one transaction from run to run, answers that come late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from segue.clock import to_micros
from segue.contract import Signal
from segue.coordinator.memory import MemoryBatch, MemoryStore
from segue.coordinator.preview import preview
from segue.coordinator.store import EventRow
from segue.coordinator.view import make_view
from segue.saga import Saga, saga
from segue.saga.definition import SagaDefinition
from segue.saga.inputs import Cancel
from segue.testing import export, replay
from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import Order, charge, payout, refund, score

Make = Callable[..., Estate]
tick = Signal("tick", int)


def counter(version: int = 1) -> SagaDefinition[int, int]:
    @saga("counter", version=version)
    async def counter(s: Saga, count: int) -> int:
        await s.call(score, Order())
        count += await s.receive(tick)
        if count < 100:
            s.continue_as_new(count)
        return count

    return counter


COUNTER = counter()


def ticked(e: Estate, value: int) -> None:
    e.request("signal", "c-1", "tick", value, message_id=f"tick-{value}")
    e.run()


def reasons(e: Estate) -> list[str]:
    assert isinstance(e.store, MemoryStore)
    return [letter.reason for letter in e.store.tables.letters.values()]


def begun(estate: Make, *definitions: Any) -> Estate:
    e = estate(*(definitions or (COUNTER,)))
    e.start(COUNTER, 0, "c-1")
    e.run()
    return e


def test_a_saga_goes_on_in_its_row(estate: Make) -> None:
    e = begun(estate)
    before = e.saga("c-1")
    ticked(e, 3)
    ticked(e, 4)
    row = e.saga("c-1")
    assert (before.run, before.first_seq, row.run, row.status) == (1, 1, 3, "running")
    assert row.first_seq == 7
    assert row.started_at == before.started_at
    ticked(e, 99)
    assert (e.saga("c-1").status, e.saga("c-1").result) == ("completed", b"106")


def test_both_transitions_are_in_one_transaction(estate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    e = begun(estate)
    commits: list[list[str]] = []
    commit = MemoryBatch.commit

    def noted(self: MemoryBatch) -> None:
        commits.append([event.type for changes, *_ in self._changes for event in changes.events])
        commit(self)

    monkeypatch.setattr(MemoryBatch, "commit", noted)
    ticked(e, 3)
    assert ["SignalReceived", "Continued"] in commits


def test_a_start_that_comes_again_is_compared_with_the_input_of_the_first_run(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    e.start(COUNTER, 0, "c-1", message_id="again")
    e.run()
    assert reasons(e) == []
    e.start(COUNTER, 3, "c-1", message_id="another")
    e.run()
    assert reasons(e) == ["start_conflict"]


def test_a_signal_that_comes_again_after_its_run_counts_once(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    ticked(e, 3)
    row = e.saga("c-1")
    assert (row.run, row.waiting_for) == (2, "signal tick")


def test_a_reply_that_comes_again_a_run_later_is_known(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    first, second = e.commands
    for late in (first, second):
        e.reply(late, body=10)
        e.reply(late, "retry", {"message": "busy"}, error="busy")
    e.run()
    assert reasons(e) == []


def test_a_reply_that_comes_two_runs_later_is_kept_where_people_look(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    ticked(e, 4)
    e.reply(e.commands[0], body=10)
    e.run()
    assert reasons(e) == ["foreign_reply"]


def test_a_reply_to_a_run_of_which_a_part_was_deleted_does_not_hold_up_the_present_one(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    without_first_transition(e)
    e.reply(e.commands[0], body=10)
    e.run()
    assert reasons(e) == ["foreign_reply"]
    assert e.saga("c-1").attention == "none"


def test_a_saga_of_whose_earlier_run_a_part_was_deleted_is_shown_previewed_and_replayed(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    rest = without_first_transition(e)
    now = e.store.now()
    view = make_view(e.saga("c-1"), rest, now)
    assert [step.name for step in view.steps] == ["risk.score@2"]
    assert view.timeline[0].seq == 2
    accepted, effects = preview("c-1", rest, Cancel(compensate="all", reason="", actor="me"), now)
    assert accepted, effects
    text = export([(to_micros(row.at), row.payload) for row in rest], "c-1")
    assert replay(text, COUNTER) == {"c-1": "running"}


def without_first_transition(e: Estate) -> list[EventRow]:
    """Saga c-1 loses the first transition of its first run; what is left."""
    assert isinstance(e.store, MemoryStore)
    [first, *rest] = e.store.tables.events["c-1"]
    assert first.seq < e.saga("c-1").first_seq
    e.store.tables.events["c-1"] = rest
    return rest


def test_a_success_of_what_a_person_skipped_in_the_last_run_does_not_go_unseen(estate: Make) -> None:
    @saga("skipping")
    async def skipping(s: Saga, order: Order) -> None:
        await s.call(payout, order, timeout=timedelta(minutes=1))
        s.continue_as_new(order)

    e = estate(skipping)
    e.silent.add("bank.payout")
    e.start(skipping, Order(), "s-1")
    e.run()
    for _ in range(20):
        e.pass_time(timedelta(seconds=10))
    assert e.saga("s-1").attention == "in_doubt"
    e.ask("skip", "s-1", step="bank.payout")
    e.run()
    assert e.saga("s-1").run == 2
    e.reply(e.commands[0])
    e.run()
    assert reasons(e) == ["late_success"]


def test_only_the_present_run_is_read_to_bring_a_saga_back(estate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    e = begun(estate)
    for value in range(1, 6):
        ticked(e, value)
    assert e.saga("c-1").revision > 12
    e.coordinators[0].close()
    e.coordinators = [e.coordinator()]
    read: list[list[int]] = []
    history = MemoryBatch.history

    def noted(self: MemoryBatch, saga_ids: Any) -> Any:
        found = history(self, saga_ids)
        read.extend([event.seq for event in events] for events in found.values())
        return found

    monkeypatch.setattr(MemoryBatch, "history", noted)
    first = e.saga("c-1").first_seq
    ticked(e, 6)
    assert read == [[first, first + 1]]
    assert e.saga("c-1").run == 7


def test_a_new_run_has_the_newest_version_that_is_deployed(estate: Make) -> None:
    e = begun(estate)
    e.coordinators[0].close()
    e.coordinators = [e.coordinator([COUNTER, counter(2)])]
    e.run()
    assert e.saga("c-1").version == 1
    ticked(e, 3)
    assert (e.saga("c-1").run, e.saga("c-1").version) == (2, 2)


def test_code_that_has_changed_does_not_hold_up_a_run_that_is_ending(estate: Make) -> None:
    def build(step: str) -> SagaDefinition[Order, None]:
        @saga("leaving")
        async def leaving(s: Saga, order: Order) -> None:
            try:
                async with asyncio.timeout(60):
                    await s.call(charge, order, compensate=refund, step=step)
            except TimeoutError:
                s.continue_as_new(order)

        return leaving

    e = estate(build("one"))
    e.silent |= {"payments.charge", "payments.refund"}
    e.start(build("one"), Order(), "l-1")
    e.run()
    e.pass_time(timedelta(minutes=2))
    assert e.sent("l-1")[-1] == "undo one"
    e.coordinators[0].close()
    e.coordinators = [e.coordinator([build("two")])]
    undo = next(command for command in e.commands if command.action == "compensate")
    e.reply(undo)
    e.run()
    row = e.saga("l-1")
    assert (row.run, row.attention, e.sent("l-1")[-1]) == (2, "none", "two@2")


def test_the_view_shows_the_present_run(estate: Make) -> None:
    e = begun(estate)
    ticked(e, 3)
    row = e.saga("c-1")
    with e.store.batch() as batch:
        present = batch.history(["c-1"])["c-1"]
        earlier = batch.earlier("c-1", 1, row.first_seq)
    view = make_view(row, [*earlier, *present], e.store.now())
    assert [step.name for step in view.steps] == ["risk.score@2"]
    texts = [entry.text for entry in view.timeline]
    assert "the saga's code asked for a new run" in texts
    assert "run 2 began, counter v1" in texts
    assert make_view(row, present, e.store.now()).timeline[0].type == "Continued"
