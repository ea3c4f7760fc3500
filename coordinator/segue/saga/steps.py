"""What there is to know about one step of a saga, and what its code is to be told. Changed by `state.apply` alone."""

from __future__ import annotations

from typing import Literal

import msgspec

from segue.ids import CommandId
from segue.saga import events as e
from segue.saga.retry import Retry

StepStatus = Literal[
    "scheduled", "issued", "waiting", "succeeded", "failed", "unknown", "skipped", "parked", "in_doubt"
]
UndoStatus = Literal["none", "issued", "waiting", "done", "deferred", "given_up"]

#: Later than anything: there is no such time.
NEVER = 2**62


class Undo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far the compensation of one step is."""

    status: UndoStatus = "none"
    attempt: int = 0
    first_sent: int = 0
    due: int = NEVER
    resend: int = NEVER
    resends: int = 0
    retry_at: int = NEVER
    error: e.Failure | None = None
    reason: str = ""
    edited: bytes = b""
    sent_at: int = 0
    command: CommandId | None = None
    #: When this attempt has taken too long.
    attempt_due: int = NEVER
    #: What the newest command carries: a re-send has the same bytes, even if the step's output is known by then.
    body: bytes = b""
    #: Whether the step was known to have succeeded when that was sent.
    done: bool = False
    #: How many of its attempts have met no worker that fits, and whether the newest has.
    mismatches: int = 0
    mismatched: bool = False


#: Most steps never come to it: they share this one.
NO_UNDO = Undo()


class Step(msgspec.Struct, kw_only=True, gc=False):
    """One occurrence of an activity in one saga."""

    name: str
    number: int
    activity: str
    input: msgspec.Raw
    compensate: str
    readonly: bool
    optional: bool
    park: bool
    timeout: int
    retry: Retry
    after_pivot: bool
    #: Positions of the events that scheduled and settled it: `a` happened before `b` if a.settled < b.issued.
    issued: int
    settled: int = NEVER
    status: StepStatus = "scheduled"
    output: msgspec.Raw = e.NULL
    error: e.Failure | None = None
    #: The code has its answer (or does not want it any more); later outcomes are only recorded.
    delivered: bool = False
    #: Its outcome is unknown and the code has moved on: undone at once.
    abandoned: bool = False
    #: Some attempt may have had an effect although it was answered negatively.
    tainted: bool = False
    attempt: int = 0
    first_sent: int = 0
    due: int = NEVER
    resend: int = NEVER
    resends: int = 0
    retry_at: int = NEVER
    started_at: int = 0
    #: Time and deadline of the newest command: a re-send has the same bytes.
    sent_at: int = 0
    sent_due: int = 0
    command: CommandId | None = None
    ended_at: int | None = None
    #: When this attempt has taken too long, and how long (microseconds) it may be silent; 0: as the policy says.
    attempt_due: int = NEVER
    heartbeat: int = 0
    progress: msgspec.Raw = e.NULL
    undo: Undo = NO_UNDO
    #: Of the entity that its commands are about; empty: there is none.
    key: str = ""
    #: Its keys name the coordinator.
    keyed: bool = False
    #: How many of its attempts have met no worker that fits, and whether the newest has.
    mismatches: int = 0
    mismatched: bool = False


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """Something that the saga's code is to be told: the outcome of a step, a fired timer, a signal, an undo's end.

    `step` is the name of the step, or of the signal; `signal` is what is handed over. `skipped`: the code goes on
    without the step's output.
    """

    kind: Literal["start", "step", "timer", "signal", "undo"]
    step: str = ""
    n: int = 0
    payload: msgspec.Raw = e.NULL
    error: e.Failure | None = None
    settled: int = 0
    skipped: bool = False
    signal: e.SignalReceived | None = None


def undo_body(step: Step) -> bytes:
    """What a compensation receives: `{"input": …, "output": …|null}`, as far as it is known now."""
    return b'{"input":%b,"output":%b}' % (bytes(step.input), bytes(step.output))
