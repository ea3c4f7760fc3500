"""What a transition asks the outside world to do: data, carried out by the coordinator in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from segue.ids import CommandId
from segue.saga.events import Action, AnyEvent, EndStatus, SignalReceived
from segue.saga.signs import LastSign


class SendCommand(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Send a command (again: then it has the id, the time and the deadline it had before).

    `key` is the participant's fence key, `record_key` that of the record: what has the same is handled one after the
    other. Times are microseconds since 1970. A compensation has no deadline: it never expires.
    """

    id: CommandId
    activity: str
    step: str
    action: Action
    attempt: int
    body: bytes
    sent_at: int
    deadline: int | None
    key: str
    record_key: str
    #: Of a compensation: the invoke is known to have succeeded, so that there is something to undo.
    done: bool = False
    #: So long (microseconds) the participant may be silent before another one is asked; 0: it was not said.
    heartbeat: int = 0


class NoteSign(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Keep this sign of life of a command in the place of the one before."""

    command: CommandId
    sign: LastSign


class ForgetSign(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command is settled, and what was kept of its signs of life serves nobody any more."""

    command: CommandId


class Finish(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The saga has ended."""

    status: EndStatus


class DropSignal(msgspec.Struct, frozen=True, gc=False):
    """A signal that the saga will never be told is given up, for a reason: `invalid_signal` or `unreceived`."""

    signal: SignalReceived
    reason: str
    message: str


Effect = SendCommand | NoteSign | ForgetSign | Finish | DropSignal


class Moved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The saga moved on: one row of history and what to do. `wake_at` (microseconds): when to look again by itself."""

    events: list[AnyEvent]
    effects: list[Effect]
    wake_at: int | None
    #: Where the code of a saga that is blocked by this raised what blocks it; for the log, and nowhere kept.
    raised: Sequence[str] = ()


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """The history stays as it is, for a reason: `duplicate`, `late`, `foreign`, `ended`, … Stable words, counted."""

    reason: str
    detail: str = ""
    #: What is to be done all the same.
    effects: list[Effect] = []
