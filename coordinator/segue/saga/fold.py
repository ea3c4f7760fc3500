"""The fold: how each event changes the state of its saga. It decides nothing, and needs no saga code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

import segue.saga.fold_signals as on_signals
import segue.saga.fold_steps as on_steps
from segue.saga import events as e
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY
from segue.saga.state import SagaState
from segue.saga.steps import NEVER, Delivery


def fold(saga_id: str, transitions: Iterable[tuple[int, bytes]]) -> SagaState:
    """The state after these transitions: (microseconds, payload) of each `saga_event` row, in the order of `seq`."""
    state = SagaState(saga_id)
    for at, payload in transitions:
        for event in e.decode_events(payload):
            apply(state, event, at)
        end_transition(state, at)
    return state


def end_transition(state: SagaState, at: int) -> None:
    """Close one row of the history: whatever the code could be told in it, it has been told."""
    state.revision += 1
    state.updated_at = at
    if state.troubled or state.parked is not None or state.waiting_since is not None:
        waits = state.waits_for_person
        if waits != (state.waiting_since is not None):
            state.waiting_since = at if waits else None
    if not state.undriven:
        state.deliveries.clear()


def apply(state: SagaState, event: e.AnyEvent, at: int) -> None:
    """Fold one event, recorded at `at` microseconds, into the state."""
    state.count += 1
    FOLD[event.__class__](state, event, at)


def _started(state: SagaState, event: e.Started, at: int) -> None:
    state.coordinator = event.coordinator
    state.definition = event.definition
    state.version = event.version
    state.input = state.started_with = event.input
    state.asked = event.asked
    state.compensation = event.compensation or DEFAULT_COMPENSATION_RETRY
    state.compensation_timeout = event.compensation_timeout
    state.trace = event.trace
    state.started_at = state.updated_at = at
    state.deadline_runs = event.deadline_runs
    if event.deadline is not None:
        state.deadline = state.promised = event.deadline
        state.set_alarm("deadline", "", event.deadline)
    state.deliveries.append(Delivery("start"))


def _run_ended(state: SagaState, event: e.RunEnded, _: int) -> None:
    state.returned = True
    state.next = event
    state.timers.clear()
    state.receives.clear()
    state.expected.clear()
    state.undo_requests.clear()
    on_signals.put_back(state, event.pending)
    state.deliveries.clear()
    if event.deadline is not None:
        state.deadline = state.promised = event.deadline
        state.deadline_missed = False
        state.set_alarm("deadline", "", event.deadline)


def _continued(state: SagaState, event: e.Continued, at: int) -> None:
    """What the event does not carry is as in a new saga: the state is the same, whether or not it had a run before."""
    fresh = SagaState(state.id)
    for name in SagaState.__struct_fields__:
        setattr(state, name, getattr(fresh, name))
    state.count = 1
    state.run = event.run
    state.first_seq, state.previous_seq = event.transitions + 1, event.previous
    state.revision = event.transitions
    state.coordinator, state.definition, state.version = event.coordinator, event.definition, event.version
    state.input = event.input
    state.started_with = event.started_with if bytes(event.started_with) else event.input
    state.asked = event.asked
    state.started_at, state.updated_at = event.started_at, at
    state.compensation = event.compensation or DEFAULT_COMPENSATION_RETRY
    state.compensation_timeout = event.compensation_timeout
    state.trace = event.trace
    state.attributes = dict(event.attributes)
    state.signals = on_signals.carried(event)
    state.deadline_missed = event.deadline_missed
    state.deadline_runs = event.deadline_runs
    if event.deadline is not None:
        state.deadline = event.deadline
        state.promised = event.deadline if event.promised is None else event.promised
        state.set_alarm("deadline", "", event.deadline)
    state.deliveries.append(Delivery("start"))


def _stopped(state: SagaState, event: e.StopRequested, _: int) -> None:
    # What a person was waited for is the cause; that time ran out, or that somebody ended it, is what came of that.
    before = None if event.cause in ("failure", "returned") else state.trouble
    state.stop = event
    state.status = "compensating"
    state.error = None if event.cause == "returned" else before or event.error
    state.result = event.result if bytes(event.result) else state.result
    state.undo_requests.clear()
    state.timers.clear()
    state.receives.clear()
    state.expected.clear()
    state.deliveries.clear()
    state.undriven = False
    state.blocked = state.parked = state.held = None


def _held(state: SagaState, event: e.StopHeld, _: int) -> None:
    """A deadline is only put off; a failure has ended the code, so nothing but the undo can follow."""
    if event.cause == "deadline":
        state.deadline = event.until
        state.set_alarm("deadline", "", event.until)
    else:
        state.held = event
        state.set_alarm("held", "", event.until)


def _timer_started(state: SagaState, event: e.TimerStarted, _: int) -> None:
    state.timers[event.n] = event.at
    state.set_alarm("timer", str(event.n), event.at)


def _timer_fired(state: SagaState, event: e.TimerFired, _: int) -> None:
    state.timers.pop(event.n, None)
    state.deliveries.append(Delivery("timer", n=event.n))


def _timer_cancelled(state: SagaState, event: e.TimerCancelled, _: int) -> None:
    state.timers.pop(event.n, None)


def _pivot_passed(state: SagaState, _event: e.PivotPassed, _: int) -> None:
    state.pivot = True


def _attribute_set(state: SagaState, event: e.AttributeSet, _: int) -> None:
    state.attributes[event.name] = event.value


def _returned(state: SagaState, event: e.ProgramReturned, _: int) -> None:
    state.returned = True
    state.result = event.result


def _deadline_missed(state: SagaState, _event: e.DeadlineMissed, _: int) -> None:
    state.deadline_missed = True


def _deadline_moved(state: SagaState, event: e.DeadlineMoved, _: int) -> None:
    state.waiting_since = None
    state.deadline += event.shift
    state.set_alarm("deadline", "", state.deadline)


def _parked(state: SagaState, event: e.SagaParked, _: int) -> None:
    state.parked = event.error


def _ended(state: SagaState, event: e.Ended, at: int) -> None:
    state.ended = True
    state.status = event.status
    state.ended_at = at
    state.blocked = state.parked = state.held = None
    state.signs.clear()
    state.signals.clear()


def _undriven(state: SagaState, event: e.Undriven, at: int) -> None:
    while len(state.deliveries) > event.pending:
        state.deliveries.pop(0)
    if not state.undriven:
        state.undriven_since = at
    state.undriven = True
    state.blocked = event.error


def _nothing(_state: SagaState, _event: e.LateReply, _: int) -> None:
    """It was only recorded, by versions before."""


def _redriven(state: SagaState, event: e.Redriven, at: int) -> None:
    """The clock stood still: deadlines move. What was to be sent meanwhile is sent now, not later by another shift."""
    state.undriven = False
    state.blocked = None
    state.asked_since = max(state.asked_since, event.since)
    shift = event.shift
    if not shift:
        return
    if state.waiting_since is not None and not event.since:
        state.waiting_since = min(state.waiting_since + shift, at)  # the deadline gets this time back already
    if state.deadline < NEVER:
        state.deadline += shift
        state.set_alarm("deadline", "", state.deadline)
    for step in state.open_steps.values():
        if step.due < NEVER:
            step.due, step.first_sent = step.due + shift, step.first_sent + shift
            step.resend, step.retry_at = _sent_now(step.resend, event, at), max(step.retry_at, at)
            step.attempt_due = min(NEVER, step.attempt_due + shift)
            on_steps.set_alarms(state, step)
    for step in state.undos.values():
        if step.undo.due < NEVER:
            undo = step.undo
            step.undo = replace(
                undo,
                due=undo.due + shift,
                first_sent=undo.first_sent + shift,
                resend=_sent_now(undo.resend, event, at),
                retry_at=max(undo.retry_at, at),
                attempt_due=min(NEVER, undo.attempt_due + shift),
            )
            on_steps.set_undo_alarms(state, step)
    for n in state.timers:
        state.timers[n] += shift
        state.set_alarm("timer", str(n), state.timers[n])


def _sent_now(resend: int, event: e.Redriven, at: int) -> int:
    """When silence is answered: not before now, and right now where the answer may be lost."""
    return at if event.since and resend < NEVER else max(resend, at)


#: What each event does to the state; a test holds that every event is here.
FOLD: Mapping[type[e.Event], Callable[[SagaState, Any, int], None]] = {
    e.Started: _started,
    e.Continued: _continued,
    e.RunEnded: _run_ended,
    e.ProgramReturned: _returned,
    e.Ended: _ended,
    e.StopRequested: _stopped,
    e.StopHeld: _held,
    e.SagaParked: _parked,
    e.Undriven: _undriven,
    e.Redriven: _redriven,
    e.DeadlineMissed: _deadline_missed,
    e.DeadlineMoved: _deadline_moved,
    e.PivotPassed: _pivot_passed,
    e.AttributeSet: _attribute_set,
    e.TimerStarted: _timer_started,
    e.TimerFired: _timer_fired,
    e.TimerCancelled: _timer_cancelled,
    e.LateReply: _nothing,
    **on_steps.FOLD,
    **on_signals.FOLD,
}
