"""The participant's fence: what becomes of a command, decided from one row (design §6, wire protocol).

    command     row says                                          decision
    ──────────  ────────────────────────────────────────────────  ─────────────────────────────────────────────────────
    any         this very command was answered                    AnswerStored: the same reply, byte for byte
    any         row is new, command is older than the horizon     DeadLetter: its row may have been swept
    any         a higher attempt was seen                         Refuse `superseded`, nothing is stored
    invoke      a compensation was seen                           Refuse `compensated`: undo before do
    invoke      success                                           AnswerAgain: that success, addressed to this command
    invoke      not answered, deadline is over                    Refuse `expired`, stored
    invoke      anything else                                     Handle
    compensate  success of an earlier attempt                     AnswerAgain
    compensate  no invoke, or a reply that proves "no effect"     Tombstone: succeeds without a handler; but
                though the coordinator knows of its success       Refuse `forgotten`, stored: what stood here is lost
    compensate  anything else (success, unknown, pending, none)   Handle; it never expires

The first line that fits counts: so the look-up precedes the expiry check, and a duplicate is answered however late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, assert_never

import msgspec
from sqlalchemy import Connection

from segue.outbox.fences import sweep_inbox_rows
from segue.outbox.message import Message, pack, unpack
from segue.outbox.store import ServiceRows
from segue.topics.envelope import Command

#: Outcome of a command as its fence row keeps it; `unknown` = a negative reply that could not prove "no effect".
StoredOutcome = Literal["success", "failure", "retry", "pending", "unknown"]
#: A participant keeps fence rows this long, and takes no older command; it must exceed the topic's retention and
#: the longest deadline together.
HORIZON = timedelta(days=14)


_FORGOTTEN = "this step has succeeded, and its row is gone: nobody here can say what is to be undone"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of one action (invoke or compensate) of an occurrence: the highest attempt seen, its reply."""

    attempt: int = 0
    command_id: str | None = None
    #: None where no command was answered yet: never seen (attempt 0), or being handled without a transaction.
    outcome: StoredOutcome | None = None
    reply: bytes | None = None


class Fence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the inbox, locked."""

    invoke: Answer = Answer()
    compensate: Answer = Answer()
    tombstone: bool = False
    #: Details of the last heartbeat.
    details: bytes | None = None
    #: The row was inserted by this very transaction.
    new: bool = True
    #: Of the delivery that was begun last outside of a transaction.
    lease: int = 0

    def answer_to(self, command: Command) -> Answer:
        return self.invoke if command.action == "invoke" else self.compensate


@dataclass(frozen=True, slots=True)
class Handle:
    """Run the handler."""


@dataclass(frozen=True, slots=True)
class AnswerStored:
    """Send this reply once more, as it is."""

    reply: Message


@dataclass(frozen=True, slots=True)
class AnswerAgain:
    """Send the outcome and body of this stored reply, addressed to the command at hand."""

    reply: Message


@dataclass(frozen=True, slots=True)
class Tombstone:
    """There is nothing to undo: answer `success`, and refuse the invoke if it ever comes."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer `failure` with this code; nothing was done. `stored`: as this command's reply."""

    code: Literal["superseded", "compensated", "expired", "forgotten"]
    message: str
    stored: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Nobody can say any more whether this command was handled: a person has to look at it."""

    reason: str


Decision: TypeAlias = Handle | AnswerStored | AnswerAgain | Tombstone | Refuse | DeadLetter


def decide(fence: Fence, command: Command, now: datetime, horizon: timedelta = HORIZON) -> Decision:
    """What becomes of `command`; the table at the top of this module, line by line. Pure."""
    known = fence.answer_to(command)
    if known.command_id == command.id and known.reply is not None:
        return AnswerStored(unpack(known.reply))
    if fence.new and command.time is not None and command.time < now - horizon:
        return DeadLetter(f"sent at {command.time.isoformat()}, before the horizon of {horizon}")
    if command.attempt < known.attempt:
        return Refuse("superseded", f"attempt {known.attempt} was seen before attempt {command.attempt}", stored=False)
    match command.action:
        case "invoke":
            return _decide_invoke(fence, command, now)
        case "compensate":
            return _decide_compensate(fence, command)
        case _:
            assert_never(command.action)


def _decide_invoke(fence: Fence, command: Command, now: datetime) -> Decision:
    known = fence.invoke
    if fence.tombstone or fence.compensate.attempt > 0:
        # An invoke that had, or may have had, an effect keeps its place in the row: a later compensation needs it.
        harmless = known.attempt == 0 or known.outcome in ("failure", "retry")
        return Refuse("compensated", "this step has been compensated", stored=harmless)
    if known.outcome == "success" and known.reply is not None:
        return AnswerAgain(unpack(known.reply))
    if command.deadline is not None and now > command.deadline and known.command_id != command.id:
        return Refuse("expired", f"the deadline was {command.deadline.isoformat()}", stored=True)
    return Handle()


def _decide_compensate(fence: Fence, command: Command) -> Decision:
    if fence.compensate.outcome == "success" and fence.compensate.reply is not None:
        return AnswerAgain(unpack(fence.compensate.reply))
    invoke = fence.invoke
    if invoke.attempt == 0 or invoke.outcome in ("failure", "retry"):
        # Swept, or restored from yesterday: a tombstone would be an undo of what still stands.
        return Refuse("forgotten", _FORGOTTEN, stored=True) if command.done else Tombstone()
    return Handle()


# --- the row


def lock_fence(rows: ServiceRows, consumer: str, command_key: str) -> tuple[Fence, datetime]:
    """Insert or lock the row, before anything else in the transaction; with the database's time."""
    row, new, now = rows.lock_inbox_row(consumer, command_key)
    fence = Fence(
        invoke=Answer(
            attempt=row["attempt"],
            command_id=row["invoke_id"],
            outcome=row["invoke_outcome"],
            reply=row["invoke_reply"],
        ),
        compensate=Answer(
            attempt=row["compensate_attempt"],
            command_id=row["compensate_id"],
            outcome=row["compensate_outcome"],
            reply=row["compensate_reply"],
        ),
        tombstone=row["tombstone"],
        details=row["details"],
        new=new,
        lease=row["lease"],
    )
    return fence, now


def forget_fence(rows: ServiceRows, consumer: str, command_key: str) -> None:
    """Take back the row that `lock_fence` has just inserted, for a command that leaves no trace."""
    rows.delete_inbox_row(consumer, command_key)


def store_begun(rows: ServiceRows, consumer: str, command: Command, fence: Fence) -> Fence:
    """Note that a command is being handled outside of any transaction; its answer follows, under the lease returned.

    Whoever began before has lost its lease by that: its answer and its details are refused from now on.
    """
    outcome: StoredOutcome | None = "unknown" if may_have_had_an_effect(fence.answer_to(command)) else None
    values = dict(_columns(command, outcome, None))
    if command.action == "compensate" and fence.compensate.attempt == 0:
        values["details"] = None  # those of the invoke
    values["lease"] = fence.lease + 1
    rows.update_inbox_row(consumer, command.key, values)
    return msgspec.structs.replace(fence, lease=fence.lease + 1)


def may_have_had_an_effect(answer: Answer) -> bool:
    """True where an earlier delivery never proved to be without effect: then a later `failure` can't, either."""
    return answer.attempt > 0 and answer.outcome in (None, "unknown", "pending")


def proves_no_effect(fence: Fence, command: Command, *, begun: bool = False) -> bool:
    """Whether a negative answer to `command` would: not while an earlier delivery may have had one.

    `begun`: the beginning in the row is what this very delivery has noted (`store_begun`), and no earlier one.
    """
    known = fence.answer_to(command)
    own_beginning = begun and known.command_id == command.id and known.outcome is None
    return own_beginning or not may_have_had_an_effect(known)


def store_answer(
    rows: ServiceRows, consumer: str, command: Command, outcome: StoredOutcome, reply: Message, *, tombstone: bool
) -> None:
    """Keep the reply, whole, as the answer to `command`; the row must be locked."""
    values = dict(_columns(command, outcome, pack(reply)))
    if tombstone:
        values["tombstone"] = True
    if outcome == "success":
        values["details"] = None
    rows.update_inbox_row(consumer, command.key, values)


def sweep(connection: Connection, consumer: str, retention: timedelta = HORIZON, limit: int = 1000) -> int:
    """Delete rows that nothing has touched for `retention` (not less than the horizon); how many."""
    return sweep_inbox_rows(connection, consumer, retention, limit)


def _columns(command: Command, outcome: StoredOutcome | None, reply: bytes | None) -> Mapping[str, Any]:
    if command.action == "invoke":
        return {
            "attempt": command.attempt,
            "invoke_id": command.id,
            "invoke_outcome": outcome,
            "invoke_reply": reply,
        }
    return {
        "compensate_attempt": command.attempt,
        "compensate_id": command.id,
        "compensate_outcome": outcome,
        "compensate_reply": reply,
    }
