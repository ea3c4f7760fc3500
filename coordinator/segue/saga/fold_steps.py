"""The fold of what happens to one step, and to its compensation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from msgspec.structs import replace

from segue.ids import CommandId, command_id
from segue.saga import events as e
from segue.saga.retry import DEFAULT_RETRY, attempt_due, resend_delay
from segue.saga.signs import Signs
from segue.saga.state import SagaState
from segue.saga.steps import NEVER, Delivery, Step, StepStatus, undo_body


def set_alarms(state: SagaState, step: Step) -> None:
    """Queue the alarms of a step at the times that it has now."""
    state.set_alarm("due", step.name, step.due)
    state.set_alarm("resend", step.name, step.resend)
    if step.retry_at < NEVER:
        state.set_alarm("retry", step.name, step.retry_at)
    if step.attempt_due < NEVER:
        state.set_alarm("attempt", step.name, step.attempt_due)


def set_undo_alarms(state: SagaState, step: Step) -> None:
    """Queue the alarms of a compensation at the times that it has now."""
    state.set_alarm("undo_due", step.name, step.undo.due)
    state.set_alarm("undo_resend", step.name, step.undo.resend)
    state.set_alarm("undo_retry", step.name, step.undo.retry_at)
    state.set_alarm("undo_attempt", step.name, step.undo.attempt_due)


def put_off_resend(state: SagaState, step: Step, action: e.Action, at: int) -> None:
    """A sign of life that no history has gives the participant time till `at` before it is asked again.

    Nothing else of a state changes without an event. Whoever folds the history anew finds the earlier time, is woken,
    and finds the same sign.
    """
    if action == "invoke":
        step.resend = at
    else:
        step.undo = replace(step.undo, resend=at)
    state.set_alarm("resend" if action == "invoke" else "undo_resend", step.name, at)


def scheduled(state: SagaState, event: e.StepScheduled, at: int) -> None:
    """The code has called an activity."""
    step = Step(
        name=event.step,
        number=len(state.steps),
        activity=event.activity or event.step,
        input=event.input,
        compensate=event.compensate,
        readonly=event.readonly,
        optional=event.optional,
        park=event.park,
        timeout=event.timeout,
        retry=event.retry or DEFAULT_RETRY,
        after_pivot=state.pivot,
        issued=state.count,
        started_at=at,
        key=event.key,
        heartbeat=event.heartbeat,
    )
    state.steps[event.step] = step
    state.open_steps[event.step] = step


def sent(state: SagaState, event: e.CommandSent, at: int) -> None:
    """A command of a step has gone out."""
    step = state.steps[event.step]
    identity = command_id(state.coordinator, state.id, event.step, event.action, event.attempt)
    state.commands[identity] = (event.step, event.action, event.attempt)
    if event.action == "compensate":
        undo_sent(state, step, event, identity, at)
        return
    step.status, step.attempt, step.resends = "issued", event.attempt, 0
    step.keyed = step.keyed or event.keyed
    step.first_sent = step.first_sent + event.shift if step.first_sent else at
    if step.mismatched:  # the time that it has taken is not the policy's, either
        step.first_sent, step.mismatched = step.first_sent + at - step.sent_at - event.shift, False
    due, resend = event.due or at + step.timeout, event.resend or at + resend_delay(step.retry, 0, step.heartbeat)
    step.sent_at, step.sent_due, step.command = at, due, identity
    step.due, step.resend, step.retry_at = due, resend, NEVER
    step.attempt_due = attempt_due(step.retry, at) or NEVER
    step.input = event.edited if bytes(event.edited) else step.input
    step.error = None
    state.open_steps[event.step] = step
    if state.troubled:
        calmed(state, event.step)
    set_alarms(state, step)


def undo_sent(state: SagaState, step: Step, event: e.CommandSent, identity: CommandId, at: int) -> None:
    """A command of a compensation has gone out."""
    edited = bytes(event.edited) or step.undo.edited
    due = event.due or at + state.compensation_timeout
    resend = event.resend or at + resend_delay(state.compensation, 0)
    first_sent = step.undo.first_sent + event.shift if step.undo.first_sent else at
    if step.undo.mismatched:
        first_sent += at - step.undo.sent_at - event.shift
    step.undo = replace(
        step.undo,
        status="issued",
        attempt=event.attempt,
        resends=0,
        first_sent=first_sent,
        sent_at=at,
        mismatched=False,
        command=identity,
        due=due,
        resend=resend,
        retry_at=NEVER,
        attempt_due=attempt_due(state.compensation, at) or NEVER,
        edited=edited,
        body=edited or undo_body(step),
        done=step.status == "succeeded",
    )
    state.undos[step.name] = step
    calmed(state, step.name)
    set_undo_alarms(state, step)


def resent(state: SagaState, event: e.CommandResent, _: int) -> None:
    """The command that is out has gone out once more."""
    step, shift = state.steps[event.step], event.shift
    compensating = event.action == "compensate"
    if compensating:
        undo = step.undo
        step.undo = replace(
            undo,
            first_sent=undo.first_sent + shift,
            due=undo.due + shift,
            resend=event.resend,
            resends=undo.resends + 1,
            attempt_due=min(NEVER, undo.attempt_due + shift),
        )
    else:
        step.first_sent, step.due = step.first_sent + shift, step.due + shift
        step.resend = event.resend
        step.resends += 1
        step.attempt_due = min(NEVER, step.attempt_due + shift)
    state.set_alarm("undo_resend" if compensating else "resend", event.step, event.resend)
    if shift:
        (set_undo_alarms if compensating else set_alarms)(state, step)


def postponed(state: SagaState, event: e.ProgressReported | e.RetryPlanned, at: int) -> None:
    """A sign of life, or a retry that is to come, moves what the step waits for."""
    step = state.steps[event.step]
    compensating = event.action == "compensate"
    command = state.command_id(step, event.action)
    if isinstance(event, e.ProgressReported):
        step.progress = event.details
        state.signs.setdefault(command, Signs()).take(event.message, event.said, at)
        if compensating:
            step.undo = replace(step.undo, due=event.due, resend=event.resend)
        else:
            step.due, step.resend = event.due, event.resend
        state.set_alarm("undo_due" if compensating else "due", event.step, event.due)
        state.set_alarm("undo_resend" if compensating else "resend", event.step, event.resend)
        return
    state.signs.pop(command, None)
    if compensating:
        step.undo = replace(
            step.undo,
            status="waiting",
            error=event.error,
            retry_at=event.at,
            resend=NEVER,
            attempt_due=NEVER,
            due=step.undo.due + event.shift,
            first_sent=step.undo.first_sent + event.shift,
            mismatches=step.undo.mismatches + event.mismatch,
            mismatched=event.mismatch,
        )
        set_undo_alarms(state, step)
    else:
        step.status, step.error = "waiting", event.error
        step.mismatches, step.mismatched = step.mismatches + event.mismatch, event.mismatch
        step.tainted = step.tainted or event.unknown
        step.retry_at, step.resend, step.attempt_due = event.at, NEVER, NEVER
        step.due, step.first_sent = step.due + event.shift, step.first_sent + event.shift
        set_alarms(state, step)


def settle(state: SagaState, step: Step, status: StepStatus, at: int) -> None:
    """Close a step, with this status."""
    step.status = status
    step.settled = min(step.settled, state.count)
    step.ended_at = at
    step.due = step.resend = step.retry_at = step.attempt_due = NEVER
    state.open_steps.pop(step.name, None)
    if step.command is not None:
        state.signs.pop(step.command, None)
    if state.troubled.get(step.name) in ("parked", "in_doubt"):
        calmed(state, step.name)


def calmed(state: SagaState, name: str) -> None:
    """No person is waited for any more because of this step."""
    if state.troubled.pop(name, None) is not None:
        state.set_alarm("deadline", "", state.deadline)  # it was dropped, if its time came while it stood still


def deliver(state: SagaState, step: Step, delivery: Delivery) -> None:
    """Let the code be told what became of a step, in place of what it was to be told before."""
    for n, waiting in enumerate(state.deliveries):
        if waiting.kind == "step" and waiting.step == step.name:
            state.deliveries[n] = delivery  # what became known since replaces what blocked code has not taken yet
            return
    if not step.delivered and state.stop is None and not state.returned:
        state.deliveries.append(delivery)
    step.delivered = True


def succeeded(state: SagaState, event: e.StepSucceeded, at: int) -> None:
    """A step has succeeded."""
    step = state.steps[event.step]
    step.output, step.error = event.output, None
    settle(state, step, "succeeded", at)
    if not event.then:
        deliver(state, step, Delivery("step", step=step.name, payload=event.output, settled=state.count))
    from_before = event.late and not event.then and step.compensate and not state.undoing and not state.pivot
    if event.then == "undone":
        cover(state, step)
    elif from_before:
        abandon(state, step)


def abandon(state: SagaState, step: Step) -> None:
    """The code has moved on without this outcome, so it is undone at once; an optional step stays until a full undo."""
    if not step.optional:
        cover(state, step)


def cover(state: SagaState, step: Step) -> None:
    """Undo this step while the saga goes forward."""
    step.abandoned = True
    if step.compensate and step.undo.status not in ("done", "given_up"):
        state.abandoned[step.name] = step


def undo_requested(state: SagaState, event: e.UndoRequested, _: int) -> None:
    """The code wants steps undone now. What has had no effect is covered, too: it may turn out that it had one."""
    waiting = state.undo_requests[event.n] = dict.fromkeys(event.steps)
    for name in event.steps:
        step = state.steps[name]
        cover(state, step)
        if step.status in ("failed", "skipped") or step.undo.status in ("done", "given_up"):
            state.abandoned.pop(name, None)
            waiting.pop(name)
    _undo_over(state, "")


def _undo_over(state: SagaState, name: str) -> None:
    """Nothing of this step is to be undone any more: tell the code, if it was the last that it waits for."""
    for n, waiting in list(state.undo_requests.items()):
        waiting.pop(name, None)
        if not waiting:
            del state.undo_requests[n]
            if state.stop is None and not state.returned:
                state.deliveries.append(Delivery("undo", n=n))


def spent(
    state: SagaState,
    event: e.StepFailed | e.StepUnknown | e.StepSkipped | e.StepParked | e.StepInDoubt | e.StepAbandoned,
    at: int,
) -> None:
    """A step has ended, or waits, in another way than with a success."""
    step = state.steps[event.step]
    if not isinstance(event, e.StepAbandoned):
        step.error = event.error
    match event:
        case e.StepFailed():
            settle(state, step, "failed", at)
            deliver(state, step, Delivery("step", step=step.name, error=event.error, settled=state.count))
            state.abandoned.pop(step.name, None)
            _undo_over(state, step.name)
        case e.StepUnknown():
            settle(state, step, "unknown", at)
            error = None if step.optional else event.error
            told = Delivery("step", step=step.name, error=error, settled=state.count, skipped=step.optional)
            deliver(state, step, told)
            if not state.undoing:
                abandon(state, step)
        case e.StepSkipped():
            settle(state, step, "skipped", at)
            deliver(state, step, Delivery("step", step=step.name, settled=state.count, skipped=True))
            state.abandoned.pop(step.name, None)
            _undo_over(state, step.name)
        case e.StepParked() | e.StepInDoubt():
            step.status = "parked" if isinstance(event, e.StepParked) else "in_doubt"
            step.due = step.resend = step.retry_at = step.attempt_due = NEVER
            state.open_steps[step.name] = step
            state.troubled[step.name] = step.status
        case e.StepAbandoned():
            step.delivered = True
            if step.compensate and not state.pivot and step.status not in ("failed", "skipped"):
                if step.name in state.open_steps:
                    settle(state, step, "unknown", at)
                abandon(state, step)
        case _:
            assert_never(event)


def undone(state: SagaState, event: e.StepUndone | e.UndoDeferred | e.UndoGivenUp, _: int) -> None:
    """A compensation has ended, or waits for a person."""
    step = state.steps[event.step]
    undo = replace(step.undo, due=NEVER, resend=NEVER, retry_at=NEVER, attempt_due=NEVER)
    if undo.command is not None:
        state.signs.pop(undo.command, None)
    match event:
        case e.UndoDeferred():
            step.undo = replace(undo, status="deferred", error=event.error)
            state.troubled[step.name] = "deferred"
            state.undo_error = state.undo_error or event.error
            return
        case e.StepUndone():
            step.undo = replace(undo, status="done", error=None)
        case e.UndoGivenUp():
            step.undo = replace(undo, status="given_up", reason=event.reason)
        case _:
            assert_never(event)
    state.undos.pop(step.name, None)
    calmed(state, step.name)
    state.abandoned.pop(step.name, None)
    _undo_over(state, step.name)
    if step.undo.status == "done" and state.undo_error is not None:
        deferred = (state.steps[name].undo.error for name, why in state.troubled.items() if why == "deferred")
        state.undo_error = next(deferred, None)


#: What each event of a step does to the state.
FOLD: Mapping[type[e.Event], Callable[[SagaState, Any, int], None]] = {
    e.StepScheduled: scheduled,
    e.CommandSent: sent,
    e.CommandResent: resent,
    e.StepSucceeded: succeeded,
    e.ProgressReported: postponed,
    e.RetryPlanned: postponed,
    e.StepFailed: spent,
    e.StepUnknown: spent,
    e.StepSkipped: spent,
    e.StepParked: spent,
    e.StepInDoubt: spent,
    e.StepAbandoned: spent,
    e.UndoRequested: undo_requested,
    e.StepUndone: undone,
    e.UndoDeferred: undone,
    e.UndoGivenUp: undone,
}
