"""What can happen to a saga, as values. `advance` takes one of them and a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from segue.ids import CommandId
from segue.saga.events import NOTHING, NULL, Origin
from segue.saga.signs import LastSign


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A participant answered. `body` is the output of a success, `{"message", "details"}` of the others.

    `message_id` and `said_at` (microseconds, the participant's clock; 0: unknown) tell copies of a `pending` apart from
    further ones; without them each counts.
    """

    command_id: CommandId
    outcome: Literal["success", "failure", "retry", "pending"]
    body: msgspec.Raw = NULL
    error: str = ""
    effect_unknown: bool = False
    retry_after: float | None = None
    #: The handler's own word, though its code may be one of the protocol's.
    rejected: bool = False
    message_id: str = ""
    said_at: int = 0
    #: What is kept of the command's signs of life, where `SagaState.signs` has the command.
    last_sign: LastSign | None = None
    #: The participant lacks the activity, or can't read the command: it says nothing about the business.
    mismatch: bool = False


class SignalArrived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A signal for this saga; `id`, `sender` and `origin` are those of its message, as far as there is one."""

    name: str
    payload: msgspec.Raw = NULL
    id: str = ""
    sender: str = ""
    origin: Origin | None = None


class Cancel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Stop the saga. `compensate`: `all`, `none`, or `to:STEP`."""

    compensate: str = "all"
    reason: str = ""
    actor: str = ""


class Wake(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Time has passed. Alarms up to `gate` (microseconds) may fire: until then every answer that came has been read.

    `signs`: what is kept of the signs of life of commands that are in `SagaState.signs`. `lost`: when a batch that
    nobody could read was last stepped over (0: never): answers may have been in it.
    """

    gate: int
    signs: Mapping[CommandId, LastSign] = {}
    lost: int = 0


class RetryStep(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person: try again what is parked, in doubt, deferred or blocked (all, or one step), maybe edited."""

    step: str | None = None
    edited: msgspec.Raw = NOTHING
    actor: str = ""


class SkipStep(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person: go on without this step (or leave a deferred compensation undone)."""

    step: str
    reason: str = ""
    actor: str = ""


class ResolveStep(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person knows what happened: `success` (with the output) or `failure` (no effect; of an undo: it stays)."""

    step: str
    outcome: Literal["success", "failure"]
    output: msgspec.Raw = NULL
    code: str = "resolved"
    reason: str = ""
    actor: str = ""


Input = Reply | SignalArrived | Cancel | Wake | RetryStep | SkipStep | ResolveStep
