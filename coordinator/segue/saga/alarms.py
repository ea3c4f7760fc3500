"""What the passing of time does to a saga."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from segue.ids import CommandId
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import Wake
from segue.saga.reasons import attempt_silence, silence
from segue.saga.retry import may_retry, resend_delay, retry_delay
from segue.saga.signs import LastSign
from segue.saga.state import Alarm
from segue.saga.steps import Step
from segue.saga.turn import Turn


class Alarms(Turn):
    """Lets alarms fire."""

    __slots__ = ()

    def wake(self, wake: Wake) -> Ignored | None:
        """Let every alarm fire whose time has come and up to which all answers have been read; one at a time.

        Where answers may have been lost: first of all, what was out by then goes out again.
        """
        state = self.state
        until = min(self.now, wake.gate)
        for command, last in wake.signs.items():
            self.heed(command, last)
        if wake.lost > state.asked_since and not state.undriven and not state.ended:
            self.ask_again(wake.lost, until)
        while not state.undriven and not state.ended:
            alarm = state.alarm()
            if alarm is None or alarm[0] > until:
                break
            self.fire(alarm[1], alarm[2], wake.signs)
            self.drive()
            self.undo()
        return None if self.events else Ignored("early", "no alarm is due")

    def ask_again(self, lost: int, until: int) -> None:
        """Give every command that was out by then its silence anew, and what waits for them as much time."""
        state, alarm = self.state, self.state.alarm()
        silences = [
            resend_delay(step.retry, 0)
            for step in state.open_steps.values()
            if step.status == "issued" and step.sent_at <= lost
        ]
        silences += [
            resend_delay(state.compensation, 0)
            for step in state.undos.values()
            if step.undo.status == "issued" and step.undo.sent_at <= lost
        ]
        if silences and alarm is not None and alarm[0] <= until:
            self.record(e.Redriven(shift=self.now - alarm[0] + max(silences), since=lost))

    def fire(self, what: Alarm, name: str, signs: Mapping[CommandId, LastSign]) -> None:
        if what == "deadline":
            self.deadline()
            return
        if what == "held":
            held = self.state.held
            if held is not None:
                self.fail(held.cause, held.error, held.result)
            return
        if what == "timer":
            self.record(e.TimerFired(n=int(name)))
            return
        step = self.state.steps[name]
        match what:
            case "retry":
                self.send(step, step.attempt + 1)
            case "undo_retry":
                self.send_undo(step, step.undo.attempt + 1)
            case "resend":
                self.resend(step, "invoke")
            case "undo_resend":
                self.resend(step, "compensate")
            case "attempt" | "undo_attempt":
                self.attempt_over(step) if what == "attempt" else self.undo_attempt_over(step)
            case "due" | "undo_due" if self.is_alive(step, what, signs):
                pass
            case "due":
                self.time_is_over(step)
            case "undo_due":
                self.record(
                    e.UndoDeferred(step=name, error=step.undo.error or silence(self.state.compensation_timeout))
                )
            case _:
                assert_never(what)

    def time_is_over(self, step: Step) -> None:
        if step.status != "waiting" or step.error is None:
            # After nothing but mismatches an attempt that had no time to be answered says nothing of the business.
            unfit = step.mismatches and step.mismatches == step.attempt - 1 and not step.resends
            if unfit and step.status == "issued":
                self.unfit(step, silence(step.timeout), unknown=True)
            else:
                self.unknown(step, silence(step.timeout))
        elif step.mismatched:
            self.unfit(step, step.error, step.tainted)
        else:
            self.spent(step, step.error, step.tainted)

    def is_alive(self, step: Step, what: Alarm, signs: Mapping[CommandId, LastSign]) -> bool:
        """Whether the step has more time, as it has shown that it lives since it was given the time that is over."""
        action: e.Action = "invoke" if what == "due" else "compensate"
        return self.extended(step, action, signs.get(self.state.command_id(step, action)))

    def attempt_over(self, step: Step) -> None:
        """One attempt has had its time: the next one begins, unless it was the last. It may have had an effect."""
        policy, failure = step.retry, attempt_silence(self.now - step.sent_at)
        at = self.now + retry_delay(policy, step.attempt - step.mismatches, self.state.command_id(step, "invoke"), None)
        tried_on = not step.delivered and not self.state.undoing
        shift = self.now - step.attempt_due  # nobody was there to ring in time: that is not taken from the step
        first, tries = step.first_sent + shift, step.attempt - step.mismatches
        again = tried_on and may_retry(policy, tries, failure.code, first, self.now)
        if again and at < step.due + shift:
            self.record(e.RetryPlanned(step=step.name, at=at, error=failure, unknown=True, shift=shift))
        else:
            self.unknown(step, failure)

    def undo_attempt_over(self, step: Step) -> None:
        """One attempt of a compensation has had its time."""
        policy, undo = self.state.compensation, step.undo
        failure = attempt_silence(self.now - undo.sent_at)
        at = self.now + retry_delay(
            policy, undo.attempt - undo.mismatches, self.state.command_id(step, "compensate"), None
        )
        shift = self.now - undo.attempt_due
        first, tries = undo.first_sent + shift, undo.attempt - undo.mismatches
        if may_retry(policy, tries, failure.code, first, self.now) and at < undo.due + shift:
            self.record(e.RetryPlanned(step=step.name, at=at, error=failure, action="compensate", shift=shift))
        else:
            self.record(e.UndoDeferred(step=step.name, error=failure))

    def deadline(self) -> None:
        if self.state.pivot or (self.state.returned and self.state.next is None):
            self.record(e.DeadlineMissed())
        else:
            failure = e.Failure(code="deadline", message="the saga's deadline passed", kind="timeout")
            self.fail("deadline", failure)
