from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from segue.activities.outcome import Answered, failure, reply_to
from segue.activities.participant import Participant
from segue.outbox.inbox import (
    Answer,
    AnswerAgain,
    AnswerStored,
    DeadLetter,
    Fence,
    Handle,
    Refuse,
    StoredOutcome,
    Tombstone,
    decide,
)
from segue.outbox.message import pack
from segue.testing import answers, participants
from segue.topics.converter import Converter
from segue.topics.envelope import Command
from tests.unit.activities.kit import command, refund

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
INVOKE = replace(command(sent=NOW), id="c-1")
UNDO = replace(command(activity=refund, sent=NOW), id="u-1")


def answer(to: Command, outcome: Any = "success", *, replied: bool = True) -> Answer:
    answered = Answered(outcome="success") if outcome == "success" else failure("no", "no")
    reply = pack(reply_to(to, answered, source="/payments", now=NOW)) if replied else None
    return Answer(attempt=to.attempt, command_id=to.id, outcome=outcome, reply=reply)


def seen(**answers: Any) -> Fence:
    return Fence(new=False, **answers)


def retry_of(sent: Command, attempt: int = 2) -> Command:
    return replace(sent, id=f"{sent.id}-{attempt}", attempt=attempt)


def test_a_command_never_seen_is_handled() -> None:
    assert decide(Fence(), INVOKE, NOW) == Handle()


@pytest.mark.parametrize("outcome", ["success", "failure", "retry", "pending", "unknown"])
def test_a_duplicate_gets_the_stored_reply_whatever_it_is(outcome: str) -> None:
    decision = decide(seen(invoke=answer(INVOKE, outcome)), INVOKE, NOW)
    assert isinstance(decision, AnswerStored)
    assert decision.reply.causation_id == "c-1"


def test_the_look_up_precedes_the_expiry_check_and_the_horizon() -> None:
    late = replace(INVOKE, deadline=NOW - timedelta(hours=1), time=NOW - timedelta(days=100))
    assert isinstance(decide(seen(invoke=answer(INVOKE)), late, NOW), AnswerStored)


def test_an_expired_invoke_that_was_never_handled_is_refused_and_that_is_stored() -> None:
    decision = decide(Fence(), replace(INVOKE, deadline=NOW - timedelta(seconds=1)), NOW)
    assert isinstance(decision, Refuse)
    assert (decision.code, decision.stored) == ("expired", True)


def test_a_compensation_never_expires() -> None:
    late = replace(UNDO, deadline=NOW - timedelta(hours=1))
    assert decide(seen(invoke=answer(INVOKE)), late, NOW) == Handle()


def test_an_attempt_after_a_success_gets_that_success() -> None:
    decision = decide(seen(invoke=answer(INVOKE)), retry_of(INVOKE), NOW)
    assert isinstance(decision, AnswerAgain)
    assert decision.reply.saga_outcome == "success"


@pytest.mark.parametrize("outcome", ["success", "failure", "retry", None])
def test_an_attempt_lower_than_the_highest_is_refused(outcome: str | None) -> None:
    highest = retry_of(INVOKE, 3)
    decision = decide(seen(invoke=answer(highest, outcome)), INVOKE, NOW)
    assert isinstance(decision, Refuse)
    assert (decision.code, decision.stored) == ("superseded", False)


@pytest.mark.parametrize("outcome", ["failure", "retry", "unknown"])
def test_an_attempt_after_a_negative_reply_is_handled(outcome: str) -> None:
    assert decide(seen(invoke=answer(INVOKE, outcome)), retry_of(INVOKE), NOW) == Handle()


def test_undo_before_do_leaves_a_tombstone() -> None:
    assert decide(Fence(), UNDO, NOW) == Tombstone()


@pytest.mark.parametrize("fence", [Fence(), seen(invoke=answer(INVOKE, "retry"))], ids=["no row", "an older row"])
def test_an_undo_of_what_is_known_to_be_done_is_no_success_where_its_row_is_lost(fence: Fence) -> None:
    decision = decide(fence, replace(UNDO, done=True), NOW)
    assert isinstance(decision, Refuse)
    assert (decision.code, decision.stored) == ("forgotten", True)
    assert decide(seen(invoke=answer(INVOKE)), replace(UNDO, done=True), NOW) == Handle()


def test_an_invoke_after_its_compensation_is_refused() -> None:
    fence = seen(compensate=answer(UNDO), tombstone=True)
    decision = decide(fence, INVOKE, NOW)
    assert isinstance(decision, Refuse)
    assert (decision.code, decision.stored) == ("compensated", True)


def test_a_refusal_never_overwrites_an_effect_that_is_still_to_be_undone() -> None:
    fence = seen(invoke=answer(INVOKE), compensate=answer(UNDO, "retry"))
    decision = decide(fence, retry_of(INVOKE), NOW)
    assert isinstance(decision, Refuse)
    assert not decision.stored


@pytest.mark.parametrize("outcome", ["failure", "retry"])
def test_what_provably_had_no_effect_is_compensated_without_a_handler(outcome: str) -> None:
    assert decide(seen(invoke=answer(INVOKE, outcome)), UNDO, NOW) == Tombstone()


@pytest.mark.parametrize("outcome", ["success", "unknown", "pending"])
def test_what_had_or_may_have_had_an_effect_is_compensated_by_the_handler(outcome: str) -> None:
    assert decide(seen(invoke=answer(INVOKE, outcome)), UNDO, NOW) == Handle()


def test_an_invoke_that_was_begun_and_not_answered_is_compensated_by_the_handler() -> None:
    assert decide(seen(invoke=answer(INVOKE, None, replied=False)), UNDO, NOW) == Handle()


def test_an_invoke_that_was_begun_and_not_answered_is_handled_again_even_after_its_deadline() -> None:
    late = replace(INVOKE, deadline=NOW - timedelta(hours=1))
    assert decide(seen(invoke=answer(INVOKE, None, replied=False)), late, NOW) == Handle()


def test_a_retried_compensation_gets_the_success_of_the_first() -> None:
    fence = seen(invoke=answer(INVOKE), compensate=answer(UNDO))
    assert isinstance(decide(fence, retry_of(UNDO), NOW), AnswerAgain)
    assert isinstance(decide(fence, UNDO, NOW), AnswerStored)


def test_a_command_from_beyond_the_horizon_is_a_dead_letter_unless_its_row_is_still_there() -> None:
    old = replace(INVOKE, time=NOW - timedelta(days=15))
    assert isinstance(decide(Fence(), old, NOW), DeadLetter)
    assert isinstance(decide(Fence(), replace(UNDO, time=old.time), NOW), DeadLetter)
    assert decide(seen(invoke=answer(INVOKE)), replace(UNDO, time=old.time), NOW) == Handle()


OUTCOMES: list[StoredOutcome | None] = [None, "success", "failure", "retry", "pending", "unknown"]


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("known", ["c1", "c0"])
@pytest.mark.parametrize("attempt", [0, 1])
def test_explore_judges_a_negative_answer_as_the_worker_does(
    outcome: StoredOutcome | None, known: str, attempt: int
) -> None:
    sent = replace(command(), id="c1")
    fence = Fence(invoke=Answer(attempt=attempt, command_id=known, outcome=outcome), new=False)
    worker = Participant("payments", converter=Converter(), beat=lambda *_: None)
    judged = worker._sticky(fence, sent, failure("no", "")).effect == "unknown"
    explored = participants._sticky(fence, sent, answers.negative("failure", "no", ""))
    assert explored.effect_unknown == judged
    open_or_unknown = attempt > 0 and outcome in (None, "pending", "unknown")
    assert judged == open_or_unknown
    own = known == "c1" and outcome is None  # noted by this very delivery, if that has begun outside of a transaction
    begun = worker._sticky(fence, sent, failure("no", ""), begun=True).effect == "unknown"
    assert begun == (open_or_unknown and not own)
