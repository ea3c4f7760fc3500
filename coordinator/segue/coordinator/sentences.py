"""What happened to a saga, in words: one line per event, for the command line and pages."""

from __future__ import annotations

import re
from typing import assert_never

from segue.clock import from_micros
from segue.saga import events as e

#: A block over a record that could not be applied names it first; it is kept as a dead letter in the state `received`.
_RECORD = re.compile(r"\S+\[\d+\]@\d+: ")
_LIMITS = frozenset(("command_limit", "history_limit"))
_OTHER_BLOCKS = {
    "nondeterminism": "its code asks for something else than its history holds",
    "InvalidPayload": "what came is not of the type that its code declares",
    "command_limit": "its code asked for more commands at a time than are allowed",
    "history_limit": "it has made as many transitions as are allowed",
    "internal_error": "Segue itself failed at it",
}
#: Characters of a payload in a sentence.
_LONGEST = 60
_CAUSES = {"failure": "a failure", "deadline": "its deadline", "cancel": "a cancel", "returned": "its own code"}


def sentence(event: e.AnyEvent) -> str:
    """The event as a person would say it. Names in it are other people's text: escape it before it is shown."""
    match event:
        case (
            e.StepScheduled()
            | e.CommandSent()
            | e.CommandResent()
            | e.ProgressReported()
            | e.RetryPlanned()
            | e.LateReply()
        ):
            return _under_way(event)
        case (
            e.StepSucceeded()
            | e.StepFailed()
            | e.StepUnknown()
            | e.StepSkipped()
            | e.StepParked()
            | e.StepInDoubt()
            | e.StepAbandoned()
        ):
            return _settled(event)
        case e.UndoRequested():
            left = f"a failure left scope {event.scope!r}" if event.scope else "the code asks for it"
            return f"{', '.join(event.steps[:5])} {'is' if len(event.steps) == 1 else 'are'} to be undone now: {left}"
        case e.StepUndone():
            return f"{event.step} is compensated{_by(event.by)}"
        case e.UndoDeferred():
            return f"the compensation of {event.step} is spent and waits for a person: {failure_text(event.error)}"
        case e.UndoGivenUp():
            return f"{event.step} stays as it is{_by(event.by)}: {event.reason}"
        case (
            e.TimerStarted()
            | e.TimerFired()
            | e.TimerCancelled()
            | e.ReceiveStarted()
            | e.ReceiveCancelled()
            | e.SignalReceived()
            | e.SignalRejected()
            | e.SignalsReturned()
        ):
            return _waited(event)
        case _:
            return _whole(event)


def failure_text(failure: e.Failure) -> str:
    """`no_courier: nobody drives today`."""
    return f"{failure.code}: {failure.message}" if failure.message else failure.code


def blocked_by(failure: e.Failure) -> str:
    """What stops the code of a blocked saga, in few words: not everything is the code's fault."""
    if _RECORD.match(failure.message):
        return "an answer to it can't be read or applied"
    return _OTHER_BLOCKS.get(failure.code, "the saga's code failed")


def what_unblocks(failure: e.Failure) -> str:
    """What a person can do about it."""
    if _RECORD.match(failure.message):
        return "`segue dlq replay NUMBER --value …` hands it in repaired, `segue dlq discard NUMBER` goes on without it"
    if failure.code in _LIMITS:
        return "deploy code that asks for less, then `segue saga retry`, or `segue saga cancel`"
    return "deploy code that fits, then `segue saga retry`"


def _excerpt(payload: bytes) -> str:
    text = payload.decode("utf-8", "replace")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _by(actor: str) -> str:
    return f" by {actor}" if actor else ""


def _at(micros: int) -> str:
    return from_micros(micros).strftime("%Y-%m-%d %H:%M:%SZ")


def _command(step: str, action: e.Action) -> str:
    return step if action == "invoke" else f"the compensation of {step}"


def _under_way(
    event: e.StepScheduled | e.CommandSent | e.CommandResent | e.ProgressReported | e.RetryPlanned | e.LateReply,
) -> str:
    match event:
        case e.StepScheduled():
            return f"{event.step} is to be done"
        case e.CommandSent():
            edited = ", with an edited input" if bytes(event.edited) else ""
            return f"{_command(event.step, event.action)} is sent, attempt {event.attempt}{edited}{_by(event.by)}"
        case e.CommandResent():
            return f"{_command(event.step, event.action)} is sent again after silence, same command"
        case e.ProgressReported():
            return f"{_command(event.step, event.action)} is being worked on; it may take until {_at(event.due)}"
        case e.RetryPlanned():
            what = _command(event.step, event.action)
            return f"{what} is tried again at {_at(event.at)}: {failure_text(event.error)}"
        case e.LateReply():
            return f"a late {event.outcome} of {_command(event.step, event.action)}, attempt {event.attempt}: noted"
        case _:
            assert_never(event)


def _settled(
    event: e.StepSucceeded
    | e.StepFailed
    | e.StepUnknown
    | e.StepSkipped
    | e.StepParked
    | e.StepInDoubt
    | e.StepAbandoned,
) -> str:
    match event:
        case e.StepSucceeded():
            return f"{event.step} succeeded{', late' if event.late else ''}{_by(event.by)}"
        case e.StepFailed():
            return f"{event.step} failed without effect{_by(event.by)}: {failure_text(event.error)}"
        case e.StepUnknown():
            return f"{event.step}: nobody knows whether it happened; it will be undone: {failure_text(event.error)}"
        case e.StepSkipped():
            return f"{event.step} is skipped{_by(event.by)}: {failure_text(event.error)}"
        case e.StepParked():
            return f"{event.step} waits for a person: {failure_text(event.error)}"
        case e.StepInDoubt():
            return f"nobody knows whether {event.step} happened, and it is not guessed at: {failure_text(event.error)}"
        case e.StepAbandoned():
            return f"{event.step} is not waited for any more"
        case _:
            assert_never(event)


def _waited(
    event: e.TimerStarted
    | e.TimerFired
    | e.TimerCancelled
    | e.ReceiveStarted
    | e.ReceiveCancelled
    | e.SignalReceived
    | e.SignalRejected
    | e.SignalsReturned,
) -> str:
    match event:
        case e.TimerStarted():
            return f"timer {event.n} is set to {_at(event.at)}"
        case e.TimerFired():
            return f"timer {event.n} fired"
        case e.TimerCancelled():
            return f"timer {event.n} is not needed any more"
        case e.ReceiveStarted():
            return f"waits for the signal {event.signal}"
        case e.ReceiveCancelled():
            back = "; the signal that was on its way to it waits again" if event.returned else ""
            return f"wait {event.n} for a signal is over{back}"
        case e.SignalReceived():
            sender = f" from {event.sender}" if event.sender else ""
            identity = f" ({event.id})" if event.id else ""
            return f"the signal {event.signal} came{sender}{identity}: {_excerpt(bytes(event.payload))}"
        case e.SignalRejected():
            return f"the signal {event.signal} is a dead letter, the code is not told of it: {event.error.message}"
        case e.SignalsReturned():
            return "signals that the code has not been told wait again"
        case _:
            assert_never(event)


def _whole(
    event: e.Started
    | e.PivotPassed
    | e.AttributeSet
    | e.ProgramReturned
    | e.RunEnded
    | e.Continued
    | e.StopRequested
    | e.StopHeld
    | e.DeadlineMissed
    | e.DeadlineMoved
    | e.Undriven
    | e.Redriven
    | e.SagaParked
    | e.Ended,
) -> str:
    match event:
        case e.Started():
            return f"{event.definition} v{event.version} started"
        case e.PivotPassed():
            return "the pivot is passed: nothing is compensated automatically any more"
        case e.AttributeSet():
            return f"{event.name} is set"
        case e.ProgramReturned():
            return "the saga's code returned"
        case e.StopRequested():
            stopped = f"stopped by {_CAUSES[event.cause]}{_by(event.actor)}, compensate {event.compensate}"
            return f"{stopped}: {failure_text(event.error)}"
        case e.StopHeld():
            held = f"to be stopped by {_CAUSES[event.cause]}, held until {_at(event.until)}: too many are being undone"
            return f"{held}: {failure_text(event.error)}"
        case _:
            return _stands(event)


def _deadline(event: e.DeadlineMissed | e.DeadlineMoved) -> str:
    if isinstance(event, e.DeadlineMissed):
        return "the deadline passed after the pivot: noted"
    return f"no person is waited for any more; the deadline gets {event.shift / 1_000_000:.0f}s back"


def _stands(
    event: e.RunEnded
    | e.Continued
    | e.DeadlineMissed
    | e.DeadlineMoved
    | e.Undriven
    | e.Redriven
    | e.SagaParked
    | e.Ended,
) -> str:
    match event:
        case e.RunEnded():
            return "the saga's code asked for a new run"
        case e.Continued():
            return f"run {event.run} began, {event.definition} v{event.version}"
        case e.DeadlineMissed() | e.DeadlineMoved():
            return _deadline(event)
        case e.Undriven():
            if event.error is not None:
                return f"blocked, {blocked_by(event.error)}: {failure_text(event.error)}"
            return "waits for a process that has the saga's code"
        case e.Redriven():
            return "the saga's code goes on"
        case e.SagaParked():
            return f"waits for a person, past the pivot: {failure_text(event.error)}"
        case e.Ended():
            return f"ended: {event.status}"
        case _:
            assert_never(event)
