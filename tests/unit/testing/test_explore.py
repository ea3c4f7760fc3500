from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from segue.contract import Activity, Undo, days
from segue.errors import UsageError
from segue.outbox import inbox
from segue.saga import Retry, Saga, SagaDefinition, replies, saga, state, transition
from segue.saga import events as e
from segue.saga import turn as turns
from segue.saga.state import SagaState
from segue.saga.steps import Step
from segue.testing import Case, NotMocked, Report, SagaTestError, explore, participants
from segue.testing.faults import FAULTS_AT, Fault, key_of, plan_of
from tests.unit.testing.shop import (
    ORDER,
    Charged,
    Decision,
    Order,
    Shipped,
    bulk_ship,
    charge,
    confirm,
    credit_score,
    decision,
    fraud_score,
    order_saga,
    recall,
    refund,
    release,
    reserve,
    reviewed_order,
    ship,
)

ACTIVITIES: dict[Activity[Any, Any], Callable[[Any], Any]] = {
    charge: lambda order: Charged(f"ch-{order.id}"),
    reserve: lambda order: None,
    ship: lambda order: Shipped("p-1"),
    confirm: lambda shipped: None,
    fraud_score: lambda order: 60,
    credit_score: lambda order: 40,
}


def explored(definition: SagaDefinition[Any, Any] = order_saga, input: Any = ORDER, **options: Any) -> Report:
    chosen: dict[str, Any] = {"activities": ACTIVITIES, "budget": 150, **options}
    return explore(definition, input=input, **chosen)


# --- the examples of the documentation


def test_an_order_survives_every_fault_at_every_step() -> None:
    report = explore(order_saga, input=ORDER, activities=ACTIVITIES, budget=400)
    report.raise_for_violations()
    assert report.complete
    assert report.never_compensated == []
    outcomes = report.outcomes()
    assert set(outcomes["payments.charge"]) == set(FAULTS_AT["command"])
    assert outcomes["payments.charge"][Fault.REFUSED] == {"failed": 1}
    assert outcomes["shipping.ship"][Fault.NEVER_ANSWERS] == {"compensated": 1}
    assert outcomes["shipping.ship"][Fault.PENDING_ONLY] == {"compensated": 1}
    assert outcomes["mail.confirm"][Fault.NEVER_ARRIVES] == {"completed": 1}
    refused = outcomes["undo of payments.charge"][Fault.REFUSED]
    assert refused == {"compensating, deferred → compensated after a person's retry": 1}


def test_a_reviewed_order_survives_with_its_signal_or_without() -> None:
    report = explored(reviewed_order, signals={decision: Decision(True, "ann")}, budget=250)
    report.raise_for_violations()
    assert report.outcomes()["signal decision"] == {
        Fault.SIGNAL_NEVER: {"compensated": 1},
        Fault.SIGNAL_TWICE: {"completed": 1},
    }


def test_a_bulk_is_one_row_of_the_report() -> None:
    report = explored(bulk_ship, [ORDER, ORDER, ORDER])
    report.raise_for_violations()
    assert report.outcomes()["shipping.ship[i]"][Fault.REFUSED] == {"completed": 3}


def test_your_own_books_are_checked_after_each_case() -> None:
    class Books:
        """Fresh for each run."""

        def __init__(self) -> None:
            self.paid: set[str] = set()
            self.shipped: set[str] = set()

        def activities(self) -> Mapping[Activity[Any, Any], Callable[[Any], Any]]:
            return ACTIVITIES | {
                charge: self.charge,
                refund: self.refund,
                ship: self.ship,
                recall: self.recall,
            }

        def refund(self, undo: Undo[Order, Charged]) -> None:
            self.paid.discard(undo.input.id)

        def recall(self, undo: Undo[Order, Shipped]) -> None:
            self.shipped.discard(undo.input.id)

        def charge(self, order: Order) -> Charged:
            self.paid.add(order.id)
            return Charged("ch-1")

        def ship(self, order: Order) -> Shipped:
            self.shipped.add(order.id)
            return Shipped("p-1")

    books: list[Books] = []

    def fresh() -> Mapping[Activity[Any, Any], Callable[[Any], Any]]:
        books.append(Books())
        return books[-1].activities()

    def check(case: Case) -> None:
        assert books[-1].shipped <= books[-1].paid, "shipped unpaid"

    explored(activities=fresh, check=check).raise_for_violations()


# --- what it finds in sagas


def violations(report: Report) -> set[str]:
    return {violation.rule for violation in report.violations}


def test_a_bug_that_only_a_fault_brings_out_is_found_and_can_be_played_again() -> None:
    @saga("forgetful")
    async def forgetful(s: Saga, order: Order) -> str:
        shipped = await s.call(ship, order, compensate=recall, optional=True)
        return shipped.parcel  # type: ignore[union-attr] # as type checkers say: None if nobody ships

    report = explored(forgetful)
    assert violations(report) == {"code"}
    found = report.violations[0]
    assert found.key == "2:refused"
    assert "AttributeError: 'NoneType' object has no attribute 'parcel'" in str(found)
    again = explored(forgetful, only=found.key)
    assert (again.runs, again.violations[0].message) == (1, found.message)
    with pytest.raises(SagaTestError, match=r"(?s)\[code\] the saga's code fails.*the conversation so far:"):
        report.raise_for_violations()


def test_code_that_is_not_deterministic_is_found() -> None:
    calls = iter(range(1000))

    @saga("counting")
    async def counting(s: Saga, order: Order) -> None:
        await s.call(reserve, Order(str(next(calls)), order.account, order.total))

    assert violations(explored(counting)) == {"NondeterministicSaga"}


def test_a_handler_that_asserts_is_a_violation() -> None:
    def never(order: Order) -> Charged:
        raise AssertionError("not on Sundays")

    report = explored(activities=ACTIVITIES | {charge: never})
    assert [(v.rule, v.message) for v in report.violations][:1] == [("AssertionError", "not on Sundays")]


def test_a_failing_check_names_the_faults() -> None:
    def check(case: Case) -> None:
        assert not case.standing or refund.name not in case.compensated, "something stands though it was refunded"

    report = explored(check=check, budget=60)
    report.raise_for_violations()

    def nothing_compensates(case: Case) -> None:
        assert not case.compensated, "a compensation ran"

    report = explored(check=nothing_compensates)
    assert str(report.violations[0]).splitlines()[0] == "[check] a compensation ran"
    assert "faults: " in str(report.violations[0])


def test_compensations_that_no_case_exercises_are_named() -> None:
    @saga("pivotal")
    async def pivotal(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        s.pivot()
        await s.call(reserve, order, compensate=release)

    report = explored(pivotal)
    report.raise_for_violations()
    assert report.never_compensated == ["stock.release"]
    assert report.coverage == 0.5
    assert "stock.release (of stock.reserve): NEVER" in report.text()


def test_steps_that_can_go_in_doubt_or_stay_behind_are_warned_of() -> None:
    @saga("bare")
    async def bare(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(reserve, order)
        await s.call(ship, order, compensate=recall)

    report = explored(bare)
    report.raise_for_violations()
    assert report.may_be_in_doubt["stock.reserve"] > 0
    assert report.left_standing["stock.reserve"] > 0
    assert "warning: stock.reserve can go in doubt" in report.text()
    silent = report.outcomes()["stock.reserve"][Fault.NEVER_ARRIVES]
    assert silent == {"running, in doubt → completed after a person's retry": 1}


def test_what_stands_after_a_failure_is_warned_of_also_where_there_was_nothing_to_undo() -> None:
    @saga("bare")
    async def bare(s: Saga, order: Order) -> None:
        await s.call(charge, order)
        await s.call(reserve, order)

    report = explored(bare)
    case = next(case for case in report.cases if [str(one) for one in case.plan] == ["stock.reserve: refused"])
    assert (case.status, case.standing) == ("failed", ("payments.charge",))
    assert report.left_standing["payments.charge"] > 0


def test_a_saga_that_does_not_complete_without_a_fault_is_warned_of_and_the_missing_signal_named() -> None:
    report = explored(reviewed_order, signals={})
    assert report.never_sent == {"decision"}
    assert "warning: without a fault the saga is compensated (no_decision)" in report.text()
    assert "warning: the saga waits for the signal decision, and signals= does not have it" in report.text()
    assert json.loads(report.to_json())["never_sent"] == ["decision"]


def test_nothing_is_complete_where_the_run_without_a_fault_fails() -> None:
    @saga("endless")
    async def endless(s: Saga, order: Order) -> None:
        while True:
            await s.call(reserve, order)
            await asyncio.sleep(86_400 * 30)

    report = explored(endless)
    assert violations(report) == {"NeverEnds"}
    assert "until=days(90)" in report.violations[0].message
    assert not report.complete
    seen = explored(endless, until=days(90))
    seen.raise_for_violations()
    assert seen.complete


def test_who_cancels_where_is_told_by_place() -> None:
    lines = explored().text().splitlines()
    told = lines[lines.index("cancelled by a person") + 1 :]
    assert any(line.startswith("  cancelled: start; after payments.charge") for line in told)


def test_once_a_person_retries_nothing_fails_and_so_no_fault_is_planned_there() -> None:
    report = explored(budget=400)
    parked = [case for case in report.cases if case.after_retry]
    again = [explored(only=case.key).cases[0] for case in parked[:3]]
    assert [case.outcome for case in again] == [case.outcome for case in parked[:3]]
    assert not any(planned.point.subject == "after a person" for case in parked for planned in case.plan)


# --- what it would find in the engine: each of its rules fails for an engine that breaks it


def test_an_unknown_outcome_taken_for_a_refusal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(turn: Any, step: Step, failure: e.Failure) -> None:
        turn.record(e.StepFailed(step=step.name, error=failure))

    monkeypatch.setattr(transition._Turn, "unknown", unknown)
    assert "completed" in violations(explored())


@saga("asked-once")
async def asked_once(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund, retry=Retry(attempts=1))


def test_workers_that_lack_an_activity_spend_no_attempt() -> None:
    report = explored(asked_once)
    report.raise_for_violations()
    assert report.outcomes()["payments.charge"][Fault.MISMATCHED] == {"completed": 1}


def test_a_mismatch_taken_for_a_refusal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "is_mismatch", lambda reply: False)
    assert "mismatch" in violations(explored(asked_once))


def test_an_undo_in_any_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(turn: Any) -> None:
        if turn.state.undoing and not turn.state.ended:
            for step in list(state.steps_to_undo(turn.state)):
                if step.undo.status == "none":
                    turn.send_undo(step, 1)

    monkeypatch.setattr(transition._Turn, "undo", undo)
    assert "reverse order" in violations(explored())


def test_an_undo_that_forgets_unknown_outcomes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = state.steps_to_undo

    def forgetful(found: SagaState) -> Iterator[Step]:
        return (step for step in real(found) if step.status == "succeeded")

    monkeypatch.setattr(turns, "steps_to_undo", forgetful)
    assert "undone" in violations(explored())


def test_an_undo_of_what_was_refused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(found: SagaState) -> Iterator[Step]:
        return (s for s in found.steps.values() if found.undoing and s.compensate and s.undo.status != "done")

    monkeypatch.setattr(turns, "steps_to_undo", too_much)
    assert "only what was done" in violations(explored())


def test_an_undo_after_the_pivot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @saga("pivotal")
    async def pivotal(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        s.pivot()
        await s.call(reserve, order, compensate=release)

    def spent(turn: Any, step: Step, failure: e.Failure, unknown: bool) -> None:
        turn.fail("failure", failure)

    monkeypatch.setattr(transition._Turn, "spent", spent)
    assert "pivot" in violations(explored(pivotal))


def test_a_forgotten_wake_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "wake_at", lambda state: None)
    assert "ends or waits" in violations(explored())


def test_participants_that_do_after_they_have_undone_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = inbox.decide

    def decide(fence: inbox.Fence, command: Any, *args: Any) -> inbox.Decision:
        decision = real(fence, command, *args)
        return inbox.Handle() if isinstance(decision, inbox.Refuse) else decision

    monkeypatch.setattr(participants, "decide", decide)
    assert {"once", "undone"} & violations(explored())


def test_a_duplicate_that_matters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = transition._Turn.reply

    def reply(turn: Any, reply: Any) -> Any:
        name, _, _ = turn.state.commands[reply.command_id]
        if turn.state.steps[name].status == "succeeded" and turn.state.open_steps:
            turn.fail("failure", e.Failure(code="doubled"))
            return None
        return real(turn, reply)

    monkeypatch.setattr(transition._Turn, "reply", reply)
    assert "duplicates" in violations(explored())


# --- budget, order, form


def test_the_same_exploration_twice_gives_the_same_report() -> None:
    assert explored().to_json() == explored().to_json()


def test_single_faults_come_before_pairs_and_a_small_budget_is_said() -> None:
    report = explored(budget=30)
    assert report.runs == 30
    assert [len(case.plan) for case in report.cases] == [0] + [1] * 29
    assert not report.complete
    assert "the budget of 30 left out" in report.text().splitlines()[0]


def test_pairs_fill_the_rest_of_the_budget() -> None:
    report = explored(budget=400)
    assert report.runs == 400
    assert max(len(case.plan) for case in report.cases) >= 2
    assert report.left[1] > 0


def test_a_small_saga_is_explored_to_the_end() -> None:
    @saga("small")
    async def small(s: Saga, order: Order) -> None:
        await asyncio.sleep(1)

    report = explored(small, budget=10_000)
    assert report.runs < 100
    assert report.left == (0, 0)
    assert report.coverage == 1.0


def test_the_report_as_json_has_what_the_text_has() -> None:
    plain = json.loads(explored().to_json())
    assert plain["saga"] == "order"
    assert plain["without_fault"] == "completed"
    assert plain["outcomes"]["payments.charge"]["refused"] == {"failed": 1}
    assert plain["compensations"]["payments.refund"]["of"] == "payments.charge"
    assert plain["violations"] == []


def test_an_activity_without_a_function_is_named() -> None:
    with pytest.raises(NotMocked, match=r"explore has no function for payments\.charge"):
        explored(activities={})


def test_what_is_no_saga_and_what_is_no_activity_is_said() -> None:
    with pytest.raises(UsageError, match=r"is no saga: give the function that has @saga"):
        explored(explored)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'payments\.charge' is no activity: give the contract itself"):
        explored(activities={"payments.charge": lambda order: None})
    with pytest.raises(UsageError, match="until=0:00:00, it must be positive"):
        explored(until=days(0))


def test_one_plan_played_again_says_what_it_is_about_and_counts_nothing() -> None:
    key = next(case.key for case in explored().cases if str(case.plan[-1:]) != "()")
    report = explored(only=key)
    assert not report.complete
    assert report.text().splitlines()[1:] == [
        "start: crash after the commit",
        "  completed",
        "  stands: payments.charge, stock.reserve, shipping.ship, mail.confirm",
        "  compensated: nothing",
    ]
    for wrong in ("99:refused", f"{key.partition(':')[0]}:refused"):
        with pytest.raises(UsageError, match="is no plan of this saga"):
            explored(only=wrong)


def test_plans_have_a_short_form() -> None:
    assert key_of(plan_of("3:reply_lost,7:refused")) == "3:reply_lost,7:refused"
    assert key_of(plan_of("none")) == "none"
    for wrong in ("refused", "3:broken", "x:refused"):
        with pytest.raises(UsageError, match="is no planned fault"):
            plan_of(wrong)
    with pytest.raises(UsageError, match="at least one run"):
        explored(budget=0)
