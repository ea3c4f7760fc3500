"""What the passing of time does to a saga."""

from __future__ import annotations

from typing import assert_never

from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.reasons import silence
from segue.saga.state import Alarm
from segue.saga.turn import Turn


class Alarms(Turn):
    """Lets alarms fire."""

    __slots__ = ()

    def wake(self, gate: int) -> Ignored | None:
        """Let every alarm fire whose time has come and up to which all answers have been read; one at a time."""
        state = self.state
        until = min(self.now, gate)
        while not state.undriven and not state.ended:
            alarm = state.alarm()
            if alarm is None or alarm[0] > until:
                break
            self.fire(alarm[1], alarm[2])
            self.drive()
            self.undo()
        return None if self.events else Ignored("early", "no alarm is due")

    def fire(self, what: Alarm, name: str) -> None:
        if what == "deadline":
            self.deadline()
            return
        if what == "held":
            held = self.state.held
            if held is not None:
                self.fail(held.cause, held.error)
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
            case "due":
                if step.status == "waiting" and step.error is not None:
                    self.spent(step, step.error, step.tainted)
                else:
                    self.unknown(step, silence(step.timeout))
            case "undo_due":
                self.record(
                    e.UndoDeferred(step=name, error=step.undo.error or silence(self.state.compensation_timeout))
                )
            case _:
                assert_never(what)

    def deadline(self) -> None:
        if self.state.pivot or (self.state.returned and self.state.next is None):
            self.record(e.DeadlineMissed())
        else:
            failure = e.Failure(code="deadline", message="the saga's deadline passed", kind="timeout")
            self.fail("deadline", failure)
