"""What a transition asks the outside world to do: data, carried out by the coordinator in the same transaction."""

from __future__ import annotations

import msgspec

from segue.ids import CommandId
from segue.saga.events import Action, AnyEvent, EndStatus


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


class Finish(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The saga has ended."""

    status: EndStatus


Effect = SendCommand | Finish


class Moved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The saga moved on: one row of history and what to do. `wake_at` (microseconds): when to look again by itself."""

    events: list[AnyEvent]
    effects: list[Effect]
    wake_at: int | None


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """Nothing changes, for a reason: `duplicate`, `late`, `foreign`, `ended`, … Stable words, counted and logged."""

    reason: str
    detail: str = ""
