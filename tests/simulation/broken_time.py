"""Mutants of a step's time: what gives it more, what must not, and who gets back what nobody could use."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace as with_fields

import segue.outbox.watchdog as watchdog
import segue.saga.fold as fold
import segue.saga.state as state
import segue.saga.transition as transition
from segue.saga import events as e
from segue.saga import fold_steps
from segue.saga.reasons import attempt_silence
from segue.saga.signs import Signs
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("a copy of a sign of life counts again: a lost answer that was put off is waited for for ever")
def sign_twice(patch: Patch) -> None:
    patch(Signs, "repeats", lambda self, message, said_at, now: 0 < min(said_at, now) < self.newest)


@mutant("a sign of life counts that is older than one that counted", focus="beating")
def sign_older(patch: Patch) -> None:
    patch(Signs, "repeats", lambda self, message, said_at, now: message in self.known)


@mutant("only the first sign of life of a command counts", focus="patience")
def sign_first_only(patch: Patch) -> None:
    patch(Signs, "repeats", lambda self, message, said_at, now: True)


@mutant("a retry that goes out too late has only what the clock left it")
def retry_time(patch: Patch) -> None:
    _nothing_back(patch, e.CommandSent, "invoke")


@mutant("a re-send that goes out too late has only what the clock left it")
def resend_time(patch: Patch) -> None:
    _nothing_back(patch, e.CommandResent, "invoke")


@mutant("a compensation that goes out too late, again, has only what the clock left it")
def undo_time(patch: Patch) -> None:
    _nothing_back(patch, e.CommandSent, "compensate")


@mutant("a `retry` that is read too late finds only what the clock left")
def late_retry(patch: Patch) -> None:
    patch(Turn, "lost", lambda self, resend: 0)


def _nothing_back(patch: Patch, kind: type[e.CommandSent] | type[e.CommandResent], action: str) -> None:
    old = Turn.record

    def record(self: Any, event: Any) -> None:
        if isinstance(event, kind) and event.action == action and event.shift:
            due = {"due": event.due - event.shift} if isinstance(event, e.CommandSent) else {}
            event = with_fields(event, shift=0, **due)
        old(self, event)

    patch(Turn, "record", record)


@mutant("a command that expired by a deadline which has moved since ends its step", focus="patience")
def expired_ends(patch: Patch) -> None:
    old = Turn.plan_retry
    patch(
        Turn,
        "plan_retry",
        lambda self, step, failure, reply: reply.outcome == "retry" and old(self, step, failure, reply),
    )


@mutant("compensations get nothing back for the time in which the saga's code was not there", focus="patience")
def redriven_undo(patch: Patch) -> None:
    old = fold.FOLD[e.Redriven]

    def redriven(s: Any, event: Any, at: int) -> None:
        undos, s.undos = s.undos, {}
        old(s, event, at)
        s.undos = undos

    patch(fold, "FOLD", {**fold.FOLD, e.Redriven: redriven})


@mutant("what was due while the saga's code was not there counts as late once more", focus="patience")
def redriven_twice(patch: Patch) -> None:
    old = fold.FOLD[e.Redriven]

    def redriven(s: Any, event: Any, at: int) -> None:
        old(s, event, 0)

    patch(fold, "FOLD", {**fold.FOLD, e.Redriven: redriven})


@mutant("an alarm that was put off rings at its old time as well")
def alarm_put_off(patch: Patch) -> None:
    patch(state.SagaState, "_alarm_at", lambda self, what, name: self.alarms[0][0])


@mutant("the next attempt of an undo is not among the alarms")
def undo_alarm(patch: Patch) -> None:
    old = state.SagaState.set_alarm

    def set_alarm(self: Any, what: Any, name: str, at: int) -> None:
        if what != "undo_retry":
            old(self, what, name, at)

    patch(state.SagaState, "set_alarm", set_alarm)


@mutant("a call that the database never answers is waited for for ever")
def call_uncut(patch: Patch) -> None:
    patch(watchdog.Watchdog, "_pause", lambda self: None)


@mutant("a hung attempt is waited for as long as its step lasts", focus="hanging")
def hung_waited_for(patch: Patch) -> None:
    patch(fold_steps, "attempt_due", lambda policy, sent: None)


@mutant("a hung attempt ends its step", focus="hanging")
def hung_is_the_end(patch: Patch) -> None:
    patch(Turn, "attempt_over", lambda self, step: self.unknown(step, attempt_silence(self.now - step.sent_at)))


@mutant("a hung attempt that is noticed late has taken that time from its step", focus="hanging")
def hung_takes_time(patch: Patch) -> None:
    over = Turn.attempt_over

    def just_now(self: Any, step: Any) -> None:
        step.attempt_due = self.now
        over(self, step)

    patch(Turn, "attempt_over", just_now)
