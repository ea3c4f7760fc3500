"""What a person does to a saga: cancel, retry, skip, resolve."""

from __future__ import annotations

from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import Cancel, ResolveStep, RetryStep, SkipStep
from segue.saga.steps import Step
from segue.saga.turn import Turn


class People(Turn):
    """Carries out what a person asked for."""

    __slots__ = ()

    def cancel(self, cancel: Cancel) -> Ignored | None:
        mode = cancel.compensate
        if self.state.undoing:
            return Ignored("stopping", "the saga is being stopped already")
        if mode.startswith("to:"):
            step = self.state.steps.get(mode[3:])
            if step is None:
                return Ignored("not_allowed", f"the saga has no step {mode[3:]!r}")
            if step.name in self.state.open_steps or step.status == "unknown":
                return Ignored("not_allowed", f"{step.name} is {step.status}: nothing can go back to what is not done")
        if mode not in ("all", "none") and not mode.startswith("to:"):
            return Ignored("not_allowed", f"compensate={mode!r}, allowed are all, none and to:STEP")
        if self.state.pivot and mode != "none":
            return Ignored("not_allowed", "the saga is past its pivot; only compensate=none can stop it")
        failure = e.Failure(code="cancelled", message=cancel.reason, kind="saga")
        self.stop(e.StopRequested(cause="cancel", error=failure, compensate=mode, actor=cancel.actor))
        return None

    def retry_by_person(self, retry: RetryStep) -> Ignored | None:
        state = self.state
        if state.blocked is not None and retry.step is None:
            if self.instance.program is None and not self.code_is_over:
                return Ignored("not_allowed", "no code for this saga's version is here")
            self.redrive()
            return None
        if state.held is not None and retry.step is None:
            held = state.held
            self.stop(e.StopRequested(cause=held.cause, error=held.error, actor=retry.actor, result=held.result))
            return None
        names = list(state.troubled) if retry.step is None else [retry.step]
        found = [state.steps[name] for name in names if name in state.troubled]
        if not found:
            return Ignored("not_allowed", "nothing is parked, in doubt, deferred or blocked" + _of(retry.step))
        asks_anew = [step.name for step in found if step.undo.status != "deferred"]
        if state.undoing and bytes(retry.edited) and asks_anew:
            return Ignored("not_allowed", f"nothing new is tried for a saga that is being undone: {asks_anew[0]}")
        for step in found:
            if step.undo.status == "deferred":
                self.instance.plans = None
                self.send_undo(step, step.undo.attempt + 1, person=retry)
            else:
                self.send(step, step.attempt + self.needs_new_try(step, retry), person=retry)
        return None

    def needs_new_try(self, step: Step, retry: RetryStep) -> bool:
        """Whether a person's retry is the next attempt, and not the same command again.

        After silence the participant is asked for the answer that it may have. One that has answered would only say the
        same again; but nothing new is tried for a saga that is being undone. Another input is another command: under
        the id of the old one a participant may have done the old input, or answer for it.
        """
        if bytes(retry.edited):
            return True
        answered = step.error is not None and step.error.kind in ("spent", "rejected")
        return step.status == "parked" or (answered and not self.state.undoing)

    def skip(self, skip: SkipStep) -> Ignored | None:
        step = self.state.steps.get(skip.step)
        if step is None or skip.step not in self.state.troubled:
            return Ignored("not_allowed", f"{skip.step!r} is neither parked nor in doubt nor deferred")
        if step.undo.status == "deferred":
            self.record(e.UndoGivenUp(step=step.name, reason=skip.reason, by=skip.actor))
        else:
            failure = e.Failure(code="skipped", message=skip.reason, kind="saga")
            self.record(e.StepSkipped(step=step.name, error=failure, by=skip.actor))
        return None

    def resolve(self, resolve: ResolveStep) -> Ignored | None:
        state = self.state
        step = state.steps.get(resolve.step)
        if step is None:
            return Ignored("not_allowed", f"the saga has no step {resolve.step!r}")
        if step.undo.status in ("issued", "waiting", "deferred"):
            if resolve.outcome == "success":
                self.record(e.StepUndone(step=step.name, by=resolve.actor))
            else:
                self.record(e.UndoGivenUp(step=step.name, reason=resolve.reason, by=resolve.actor))
            return None
        if step.undo.status != "none":
            undo = step.undo.status.replace("_", " ")
            return Ignored("not_allowed", f"the undo of {step.name} is {undo}; nothing is left to resolve")
        if step.name not in state.open_steps and step.status != "unknown" and not state.untold(step):
            return Ignored("not_allowed", f"{step.name} is {step.status}; its outcome is known")
        if resolve.outcome == "success":
            self.succeeded(step, resolve.output, resolve.actor)
        else:
            failure = e.Failure(code=resolve.code, message=resolve.reason, kind="rejected")
            self.disproved(step, failure, resolve.actor)
        return None


def _of(step: str | None) -> str:
    return f" at {step!r}" if step else ""
