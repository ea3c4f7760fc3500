"""The events of a saga: what happened, in the past tense. A saga is the fold of them, in their order.

All events of one transition are one row of `saga_event`. They record decisions, not only inputs: folding them needs
neither the saga's code nor its definition, so any process can show, check and repair any saga. Times are microseconds
since 1970, payloads canonical JSON embedded as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from segue.errors import DecodeError
from segue.saga.retry import COMPENSATION_TIMEOUT, STEP_TIMEOUT, Retry

Action = Literal["invoke", "compensate"]
#: `returned`: the code asks for the undo, and has a result all the same.
StopCause = Literal["failure", "deadline", "cancel", "returned"]
EndStatus = Literal["completed", "compensated", "failed", "cancelled"]

NULL = msgspec.Raw(b"null")
#: What saga code may rely on has changed so often; a run goes by the rules that it began with, so that it replays.
#: 1: a `map` that fails cancels its other items; an undo can't be called.
#: 2: a replay that gives a step another input blocks the saga; of older runs it only warns.
RULES = 2
#: Stands for "no payload at all" (msgspec knows no optional raw field).
NOTHING = msgspec.Raw(b"")


#: Where a message stands in its topic: partition, offset, timestamp in milliseconds.
Origin = tuple[int, int, int]


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why a step or a saga failed; `kind`: refused by the participant, silence, retries spent, or the saga's code."""

    code: str
    message: str = ""
    kind: Literal["rejected", "timeout", "spent", "saga"] = "spent"
    details: msgspec.Raw = NULL
    class_name: str = ""
    #: Where the saga's code failed: the innermost lines of it, the last one first. No values of it are in them.
    frames: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="e", tag=str.lower, gc=False):
    """Base of all events; the tag is the class's name in lower case."""


# --- the saga itself ---------------------------------------------------------------------------------------------


class Started(Event, frozen=True, kw_only=True):
    """The saga exists. `coordinator` is part of every command's id; `deadline` bounds the whole saga.

    `rules`: the newest of `RULES` that its code runs by; histories from before there were any have 0.

    `asked` is a digest of the bytes that the start came with, where `input`, its canonical form, differs from them: the
    same bytes once more are the same start, whatever defaults the type has by then.
    `deadline_runs`: the deadline does not stand still while a person is waited for.
    """

    coordinator: str
    definition: str
    version: int
    input: msgspec.Raw
    asked: str = ""
    deadline: int | None = None
    compensation: Retry | None = None
    compensation_timeout: int = COMPENSATION_TIMEOUT
    trace: tuple[tuple[str, str], ...] = ()
    rules: int = 0
    deadline_runs: bool = False


class PivotPassed(Event, frozen=True, kw_only=True):
    """From here on nothing is compensated automatically."""


class AttributeSet(Event, frozen=True, kw_only=True):
    """`s.set(attribute, value)`."""

    name: str
    value: msgspec.Raw


class ProgramReturned(Event, frozen=True, kw_only=True):
    """The saga's code returned."""

    result: msgspec.Raw


class RunEnded(Event, frozen=True, kw_only=True):
    """The code asked for a new run with `input`, which begins once nothing of this one is open.

    `deadline`: a new one for the saga, if given. `pending`: how many deliveries the code has not been told; the signals
    among them wait again.
    """

    input: msgspec.Raw
    deadline: int | None = None
    pending: int = 0


class Continued(Event, frozen=True, kw_only=True):
    """A new run begins, always with a transition of its own: nothing before it is read to bring the saga back.

    All that lasts is here. `transitions` is how many there were before, `previous` the number of the first one of the
    run before. `started_with` is the input of the first run; empty: the same as `input`.
    """

    run: int
    transitions: int
    previous: int
    coordinator: str
    definition: str
    version: int
    input: msgspec.Raw
    started_at: int
    started_with: msgspec.Raw = NOTHING
    asked: str = ""
    deadline: int | None = None
    deadline_missed: bool = False
    #: What `deadline` was before it stood still; None: the same.
    promised: int | None = None
    deadline_runs: bool = False
    compensation: Retry | None = None
    compensation_timeout: int = COMPENSATION_TIMEOUT
    trace: tuple[tuple[str, str], ...] = ()
    attributes: dict[str, msgspec.Raw] = {}
    signals: dict[str, list[msgspec.Raw]] = {}
    rules: int = 0
    #: Beside each of `signals`: its id, sender and origin.
    signal_sources: dict[str, list[tuple[str, str, Origin | None]]] = {}


class StopRequested(Event, frozen=True, kw_only=True):
    """The undo starts. `compensate`: all, none, or the step down to which (that step itself stays)."""

    cause: StopCause
    error: Failure
    compensate: str = "all"
    actor: str = ""
    result: msgspec.Raw = NOTHING


class StopHeld(Event, frozen=True, kw_only=True):
    """The undo was due, and the breaker holds it until `until`: too many sagas of this type are being undone."""

    cause: StopCause
    error: Failure
    until: int
    result: msgspec.Raw = NOTHING


class DeadlineMissed(Event, frozen=True, kw_only=True):
    """The saga's deadline passed after the pivot: noted, nothing is undone."""


class Undriven(Event, frozen=True, kw_only=True):
    """The code could not see the last `pending` deliveries: it is not here (no error), or it failed (blocked)."""

    pending: int
    error: Failure | None = None


class Redriven(Event, frozen=True, kw_only=True):
    """The code may go on; deadlines that stood still move by `shift` microseconds, what was to be sent is sent now.

    `since`: answers to commands that were sent by then (microseconds) may be lost; those commands go out again.
    """

    shift: int = 0
    since: int = 0


class DeadlineMoved(Event, frozen=True, kw_only=True):
    """No person is waited for any more: the saga's deadline moves by the `shift` microseconds that it stood still."""

    shift: int


class SagaParked(Event, frozen=True, kw_only=True):
    """A failure left the saga's code after the pivot; a person decides."""

    error: Failure


class Ended(Event, frozen=True, kw_only=True):
    """Terminal; nothing changes the saga any more."""

    status: EndStatus


# --- steps -------------------------------------------------------------------------------------------------------


class StepScheduled(Event, frozen=True, kw_only=True):
    """The code called an activity; `step` is the occurrence, `timeout` microseconds over all attempts.

    `activity` is left out where the step has its name, as it has mostly; histories from before may have it. `key`: of
    the entity whose commands are to be handled one after the other; empty: of this step alone.
    """

    step: str
    activity: str = ""
    input: msgspec.Raw
    compensate: str = ""
    readonly: bool = False
    optional: bool = False
    park: bool = False
    timeout: int = STEP_TIMEOUT
    retry: Retry | None = None
    key: str = ""
    #: So long the participant may be silent before the same command is asked again; 0: as the policy says.
    heartbeat: int = 0


class CommandSent(Event, frozen=True, kw_only=True):
    """A command: attempt number `attempt`. `due` ends the step, `resend` is when silence is answered.

    0 stands for what is usual: the step's whole time from now (a compensation's: the saga's), the policy's silence
    from now. Histories from before have the moments. `edited` is the body that a person put in place of the step's
    input (of the whole body, for a compensation). `shift`: so many microseconds too late, because nobody was there to
    send it; `due` is later by as much. `keyed`, of a step's first command: its keys name the coordinator, as do those
    of all that follow; steps of histories from before go on without.
    """

    step: str
    attempt: int = 1
    due: int = 0
    resend: int = 0
    action: Action = "invoke"
    edited: msgspec.Raw = NOTHING
    by: str = ""
    shift: int = 0
    keyed: bool = False


class CommandResent(Event, frozen=True, kw_only=True):
    """The same command again, after silence. It comes `shift` microseconds too late: the deadline moves by as much."""

    step: str
    resend: int
    action: Action = "invoke"
    shift: int = 0


class ProgressReported(Event, frozen=True, kw_only=True):
    """The participant answered `pending`: it works on it; the deadline moves.

    Of each command the first one is here, and then one for each deadline that later ones have extended, without
    `message`. Histories from before have all of them.
    `message` and `said` (microseconds, by the participant's clock; 0: unknown) tell a copy from another sign of life.
    """

    step: str
    due: int
    resend: int
    action: Action = "invoke"
    details: msgspec.Raw = NULL
    message: str = ""
    said: int = 0


class RetryPlanned(Event, frozen=True, kw_only=True):
    """The outstanding attempt was answered `retry`; the next goes out at `at`. `unknown`: it may have had an effect.

    The answer was read `shift` microseconds after its silence should have been answered: the deadline moves by as much.
    `mismatch`: no worker with this activity has got it yet, so the attempt does not count.
    """

    step: str
    at: int
    error: Failure
    action: Action = "invoke"
    unknown: bool = False
    shift: int = 0
    mismatch: bool = False


class StepSucceeded(Event, frozen=True, kw_only=True):
    """A success of any attempt settles the step; `late`: its code has gone on with another outcome.

    `then` says what a late one leads to. Histories from before have it empty: there it replaced what blocked code had
    not been told yet, and was undone all the same.
    """

    step: str
    output: msgspec.Raw = NULL
    late: bool = False
    by: str = ""
    then: Literal["", "recorded", "undone"] = ""


class StepFailed(Event, frozen=True, kw_only=True):
    """The step is spent and proved to have no effect; the code gets an ActivityError (unless it has moved on)."""

    step: str
    error: Failure
    by: str = ""


class StepUnknown(Event, frozen=True, kw_only=True):
    """The step is spent and nobody knows whether it happened; it is part of the undo."""

    step: str
    error: Failure


class StepSkipped(Event, frozen=True, kw_only=True):
    """An optional step is spent, or a person skipped it: the code gets None."""

    step: str
    error: Failure
    by: str = ""


class StepParked(Event, frozen=True, kw_only=True):
    """The step is spent and waits for a person: retry, skip or resolve."""

    step: str
    error: Failure


class StepInDoubt(Event, frozen=True, kw_only=True):
    """The outcome is unknown, and the undo does not take it by itself: it waits for a late answer or a person."""

    step: str
    error: Failure


class StepAbandoned(Event, frozen=True, kw_only=True):
    """The code gave up waiting (timeout scope, cancelled branch, end): the outcome counts as unknown at once."""

    step: str


class UndoRequested(Event, frozen=True, kw_only=True):
    """The code wants these steps undone now, in reverse; request `n` is over once each is undone or given up.

    `scope` is set where it left a scope by a failure. What was not done stays so: a late success is undone, too.
    """

    n: int
    steps: tuple[str, ...]
    scope: str = ""


class StepUndone(Event, frozen=True, kw_only=True):
    """The compensation is acknowledged."""

    step: str
    by: str = ""


class UndoDeferred(Event, frozen=True, kw_only=True):
    """The compensation is spent: earlier steps go on being undone, this one waits for a person."""

    step: str
    error: Failure


class UndoGivenUp(Event, frozen=True, kw_only=True):
    """A person decided that this step stays as it is."""

    step: str
    reason: str
    by: str = ""


class LateReply(Event, frozen=True, kw_only=True):
    """A reply that changes nothing any more, worth knowing all the same."""

    step: str
    outcome: str
    attempt: int
    action: Action = "invoke"


# --- time and signals --------------------------------------------------------------------------------------------


class TimerStarted(Event, frozen=True, kw_only=True):
    """`asyncio.sleep` or a timeout scope: fires at `at`. Numbers count the timers that the code made."""

    n: int
    at: int


class TimerFired(Event, frozen=True, kw_only=True):
    """The timer's time has come."""

    n: int


class TimerCancelled(Event, frozen=True, kw_only=True):
    """The code does not need the timer any more."""

    n: int


class ReceiveStarted(Event, frozen=True, kw_only=True):
    """The code waits for a signal; signals are handed out first come, first served.

    `expected`: by when (microseconds) it should have come; 0: nobody says. People see it then.
    """

    n: int
    signal: str
    expected: int = 0


class ReceiveCancelled(Event, frozen=True, kw_only=True):
    """The code stopped waiting. `returned`: a signal was on its way to this wait; it waits again, as the first."""

    n: int
    returned: bool = False


class SignalReceived(Event, frozen=True, kw_only=True):
    """A signal came; it waits until somebody receives it.

    `id` and `sender` are its message's, `origin` is where that stands in the requests topic; histories from before have
    none of them.
    """

    signal: str
    payload: msgspec.Raw = NULL
    id: str = ""
    sender: str = ""
    origin: Origin | None = None


class SignalRejected(Event, frozen=True, kw_only=True):
    """The signal that wait `n` was to get does not fit the type that the code declares: the code is not told of it."""

    n: int
    signal: str
    error: Failure
    id: str = ""


class SignalsReturned(Event, frozen=True, kw_only=True):
    """The code has ended without being told the last `pending` deliveries; the signals among them wait again."""

    pending: int


AnyEvent: TypeAlias = (
    Started
    | PivotPassed
    | AttributeSet
    | ProgramReturned
    | RunEnded
    | Continued
    | StopRequested
    | StopHeld
    | DeadlineMissed
    | DeadlineMoved
    | Undriven
    | Redriven
    | SagaParked
    | Ended
    | StepScheduled
    | CommandSent
    | CommandResent
    | ProgressReported
    | RetryPlanned
    | StepSucceeded
    | StepFailed
    | StepUnknown
    | StepSkipped
    | StepParked
    | StepInDoubt
    | StepAbandoned
    | UndoRequested
    | StepUndone
    | UndoDeferred
    | UndoGivenUp
    | LateReply
    | TimerStarted
    | TimerFired
    | TimerCancelled
    | ReceiveStarted
    | ReceiveCancelled
    | SignalReceived
    | SignalRejected
    | SignalsReturned
)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[list[AnyEvent]] = msgspec.json.Decoder(list[AnyEvent])


def encode_events(events: Sequence[AnyEvent]) -> bytes:
    """The events of one transition as the payload of a `saga_event` row."""
    return _ENCODER.encode(events)


def decode_events(payload: bytes) -> list[AnyEvent]:
    """The inverse of `encode_events`. Raises DecodeError for events that this version does not know."""
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"history written by another version of Segue: {error}") from None


def describe(event: AnyEvent) -> dict[str, Any]:
    """The event as plain JSON values, for `--json`, pages and people."""
    plain: dict[str, Any] = msgspec.json.decode(_ENCODER.encode(event))
    return {"type": type(event).__name__, **{name: value for name, value in plain.items() if name != "e"}}
