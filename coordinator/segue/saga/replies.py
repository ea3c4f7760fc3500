"""What a reply or a signal does to a saga."""

from __future__ import annotations

import msgspec

from segue.ids import CommandId
from segue.saga import events as e
from segue.saga.effects import Ignored, NoteSign
from segue.saga.inputs import Reply, SignalArrived
from segue.saga.reasons import failure_of
from segue.saga.retry import may_retry, retry_delay
from segue.saga.signs import heard
from segue.saga.steps import Step
from segue.saga.turn import Turn


def is_mismatch(reply: Reply) -> bool:
    """Whether no worker that fits has got the command: that is about deployments, and refuses nothing.

    Workers of the version before answered `failure` where they lacked the activity.
    """
    if reply.outcome not in ("failure", "retry"):
        return False
    return (reply.mismatch and reply.outcome == "retry") or reply.error == "unknown_activity"


class Replies(Turn):
    """Takes what other processes say."""

    __slots__ = ()

    def reply(self, reply: Reply) -> Ignored | None:
        known = self.state.commands.get(CommandId(reply.command_id))
        if known is None:
            return Ignored("foreign", f"this saga never sent command {reply.command_id}")
        name, action, attempt = known
        step = self.state.steps[name]
        if reply.last_sign is not None:
            self.heed(CommandId(reply.command_id), reply.last_sign)
        if action == "compensate":
            return self.undo_reply(step, attempt, reply)
        if reply.outcome == "success":
            return self.success(step, reply.body)
        if attempt != step.attempt or step.status not in ("issued", "in_doubt", "unknown"):
            return Ignored("late", f"{name} is {step.status}, attempt {step.attempt}")
        if reply.outcome == "pending":
            return self.progress(step, reply)
        if step.status == "unknown":
            return self.never_happened(step, reply)
        failure = failure_of(reply)
        self.extended(step, "invoke", reply.last_sign)
        unknown = reply.effect_unknown or step.tainted
        if step.status == "issued" and self.plan_retry(step, failure, reply):
            return None
        if is_mismatch(reply):
            self.unfit(step, failure, unknown)
        else:
            self.spent(step, failure, unknown)
        return None

    def success(self, step: Step, output: msgspec.Raw) -> Ignored | None:
        """A success of any attempt settles the step, also one that had been given up."""
        if step.status == "succeeded" or step.undo.status == "done":
            return Ignored("duplicate", f"{step.name} is settled")
        self.succeeded(step, output)
        return None

    def progress(self, step: Step, reply: Reply) -> Ignored | None:
        if step.status != "issued":
            return Ignored("late", f"{step.name} is {step.status}")
        return self.alive(step, "invoke", step.timeout, reply)

    def alive(self, step: Step, action: e.Action, timeout: int, reply: Reply) -> Ignored | None:
        """A sign of life gives the step its whole time again; a copy of one, or an older one, gives nothing.

        The first of a command is written to the history. Those that follow are kept beside it, till an alarm rings.
        """
        command = CommandId(reply.command_id)
        signs = self.state.signs.get(command)
        if signs is not None:
            last = heard(
                signs,
                reply.last_sign,
                message=reply.message_id,
                said_at=reply.said_at,
                now=self.now,
                details=reply.body if action == "invoke" else e.NULL,
            )
            if last is None:
                return Ignored("duplicate", f"{step.name} says nothing new")
            self.effects.append(NoteSign(command=command, sign=last))
            return Ignored("alive", f"{step.name} goes on")
        self.record(
            e.ProgressReported(
                step=step.name,
                due=self.now + timeout,
                resend=self.now + self.patience(step, action),
                action=action,
                details=reply.body if action == "invoke" else e.NULL,
                message=reply.message_id,
                said=reply.said_at,
            )
        )
        return None

    def never_happened(self, step: Step, reply: Reply) -> Ignored | None:
        """The outcome was unknown, now the participant proves that nothing happened: no undo, if none is under way."""
        if reply.effect_unknown or step.tainted or step.undo.status != "none":
            return Ignored("late", f"{step.name} is being undone")
        self.disproved(step, failure_of(reply))
        return None

    def plan_retry(self, step: Step, failure: e.Failure, reply: Reply) -> bool:
        if step.delivered or self.state.undoing:
            return False
        at, shift = self.now, self.lost(step.resend)
        mismatch = is_mismatch(reply)
        tries = step.attempt - step.mismatches
        if mismatch:
            at += retry_delay(step.retry, step.mismatches + 1, reply.command_id, reply.retry_after)
        elif reply.outcome == "retry":
            if not may_retry(step.retry, tries, failure.code, step.first_sent + shift, self.now):
                return False
            at += retry_delay(step.retry, tries, reply.command_id, reply.retry_after)
        elif failure.code != "expired" or reply.rejected or step.due <= step.sent_due:
            return False  # `expired` by a deadline that has moved since: the next try carries the new one
        if at >= step.due + shift:
            return False
        self.record(
            e.RetryPlanned(
                step=step.name, at=at, error=failure, unknown=reply.effect_unknown, shift=shift, mismatch=mismatch
            )
        )
        return True

    def undo_reply(self, step: Step, attempt: int, reply: Reply) -> Ignored | None:
        undo = step.undo
        if undo.status in ("done", "given_up"):
            return Ignored("duplicate", f"the undo of {step.name} is {undo.status}")
        if reply.outcome == "success":
            self.record(e.StepUndone(step=step.name))
            return None
        if attempt != undo.attempt or undo.status != "issued":
            return Ignored("late", f"the undo of {step.name} is {undo.status}, attempt {undo.attempt}")
        policy = self.state.compensation
        if reply.outcome == "pending":
            return self.alive(step, "compensate", self.state.compensation_timeout, reply)
        self.extended(step, "compensate", reply.last_sign)
        undo = step.undo
        failure = failure_of(reply)
        mismatch = is_mismatch(reply)
        tries = undo.mismatches + 1 if mismatch else attempt - undo.mismatches
        at = self.now + retry_delay(policy, tries, reply.command_id, reply.retry_after)
        shift = self.lost(undo.resend)
        first = undo.first_sent + shift
        again = reply.outcome == "retry" and may_retry(policy, tries, failure.code, first, self.now)
        if (again or mismatch) and at < undo.due + shift:
            self.record(
                e.RetryPlanned(
                    step=step.name, at=at, error=failure, action="compensate", shift=shift, mismatch=mismatch
                )
            )
        else:
            self.record(e.UndoDeferred(step=step.name, error=failure))
        return None

    def lost(self, resend: int) -> int:
        """Microseconds since this re-send was due: for so long nobody was there to read answers, or to ask again."""
        return max(0, self.now - resend)

    def signal(self, signal: SignalArrived) -> Ignored | None:
        if self.state.undoing or (self.state.returned and self.state.next is None):
            return Ignored("stopping", "the saga's code has ended")
        if sum(map(len, self.state.signals.values())) >= self.limits.pending_signals:
            return Ignored("limit", f"{self.limits.pending_signals} signals wait already")
        self.record(
            e.SignalReceived(
                signal=signal.name, payload=signal.payload, id=signal.id, sender=signal.sender, origin=signal.origin
            )
        )
        return None
