"""How a handler says what became of a command, and the reply that is made of it.

returned value      success
Rejected            failure: nothing was done, and trying again is pointless
RetryLater          retry: nothing was done, come back after some time
ReplyLater          pending: done so far, the answer follows with `activities.reply`
any other           retry: nothing was done, the class of the exception is the code
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from segue.errors import InputError, UsageError
from segue.ids import reply_id
from segue.outbox.inbox import StoredOutcome
from segue.outbox.message import Message
from segue.topics.codec import JsonCodec
from segue.topics.envelope import JSON, MISMATCH, Command, Effect, Outcome

#: Longest text of an error that travels, in bytes of UTF-8.
MAX_MESSAGE_BYTES = 1024
#: Longest details of a rejection, in bytes of JSON.
MAX_DETAILS_BYTES = 64 * 1024
_STRICT = JsonCodec()
#: Codes of a mismatch between deployments; no handler can mean them.
RESERVED = frozenset(("unknown_activity", "invalid_input"))
_NO_DETAILS = msgspec.Raw(b"null")
_CODE = re.compile(r"[A-Za-z0-9_.\-]{1,120}")
_UNFIT = re.compile(r"[^A-Za-z0-9_.\-]")


class Rejected(Exception):
    """The business says no: `raise Rejected("insufficient_funds", "balance is 3")`.

    What the handler wrote is rolled back, the command is answered `failure`, the saga compensates. `code` is for
    programs (1 to 120 of A-Z a-z 0-9 _ . -), `message` for people, `details` is any value that JSON can hold.
    """

    def __init__(self, code: str, message: str = "", details: Any = None) -> None:
        if code in RESERVED:
            raise UsageError(f"code {code!r} of Rejected is the worker's own: it says that a command does not fit it")
        super().__init__(_checked_code(code, "Rejected"), message)
        self.code = code
        self.message = message
        self.details = details


#: Coordinators ignore a longer one.
_LONGEST_AFTER = timedelta(days=366)


class RetryLater(Exception):
    """Not now: what the handler wrote is rolled back, and the coordinator waits `after` before the next attempt."""

    def __init__(self, after: timedelta, message: str = "", code: str = "retry_later") -> None:
        if not isinstance(after, timedelta):
            raise UsageError(f"after {after!r:.80} of RetryLater must be a timedelta")
        if not timedelta(0) <= after <= _LONGEST_AFTER:
            raise UsageError(f"after {after} of RetryLater: allowed is 0 to {_LONGEST_AFTER.days} days")
        super().__init__(message or f"after {after}")
        self.after = after
        self.code = _checked_code(code, "RetryLater")


class ReplyLater(Exception):
    """The answer comes later: what the handler wrote is committed, and the command is answered `pending`.

    Keep `ctx.token` in your own tables; `activities.reply(session, token, output)` answers minutes or days later. The
    step's time starts anew, once: the call's `timeout` must be longer than the answer takes.
    Before the handler's transaction is committed, it raises NotFound.
    """


class Answered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be replied to one command."""

    outcome: Outcome
    body: bytes | None = b"null"
    content_type: str = JSON
    code: str | None = None
    effect: Effect = "none"
    retry_after: float | None = None
    #: Said by the handler, and not by the protocol.
    rejected: bool = False
    #: The worker has no handler for it, or can't read its input; never of a handler's doing.
    mismatch: bool = False

    @property
    def stored_outcome(self) -> StoredOutcome:
        if self.outcome in ("failure", "retry") and self.effect == "unknown":
            return "unknown"
        return self.outcome


def _checked_code(code: Any, of: str) -> str:
    if not isinstance(code, str) or _CODE.fullmatch(code) is None:
        raise UsageError(f"code {code!r:.80} of {of} must be 1 to 120 of A-Z a-z 0-9 _ . -")
    return str(code)


def unfit(code: str, message: str) -> Answered:
    """The `retry` of a worker to which the command does not fit: another build will do it."""
    return Answered(outcome="retry", code=code, mismatch=True, body=error_body(code, message, None))


def failure(code: str, message: str, details: Any = None, *, effect: Effect = "none") -> Answered:
    """A `failure` with the protocol's body: `{"code": …, "message": …, "details": …}`."""
    return Answered(outcome="failure", code=code, effect=effect, body=error_body(code, message, details))


def rejection(rejected: Rejected) -> Answered:
    """The `failure` that a handler asks for, whatever code it gives."""
    answered = failure(rejected.code, rejected.message, rejected.details)
    return msgspec.structs.replace(answered, rejected=True)


def answer_of_exception(error: BaseException, *, effect: Effect) -> Answered:
    """The `retry` that an exception of a handler becomes: its class as code, its text cut, no stack trace."""
    code = error.code if isinstance(error, (InputError, RetryLater)) else _UNFIT.sub("_", type(error).__name__)[:120]
    after = max(0.0, error.after.total_seconds()) if isinstance(error, RetryLater) else None
    body = error_body(code, _text_of(error), None)
    return Answered(outcome="retry", code=code, effect=effect, retry_after=after, body=body)


def error_body(code: str, message: str, details: Any) -> bytes:
    """The body of a negative reply. Details that JSON can't hold are replaced by their text, long ones by a note."""
    cut = str(message).replace("\x00", "").encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    return msgspec.json.encode({"code": code, "message": cut, "details": _readable(details)})


def _readable(details: Any) -> msgspec.Raw:
    """The details as JSON that every reader reads: what the coordinator could not, would block the saga."""
    if details is None:
        return _NO_DETAILS
    try:
        written = msgspec.json.encode(details, enc_hook=lambda value: f"{value!s:.200}")
        if len(written) > MAX_DETAILS_BYTES:
            note = f"details of {len(written)} bytes were left out, allowed are {MAX_DETAILS_BYTES}"
            return msgspec.Raw(msgspec.json.encode(note))
        return msgspec.Raw(_STRICT.decode(written))
    except Exception:  # noqa: BLE001 - whatever somebody's class does when it is written
        text = _text_of(details).replace("\x00", "").encode("utf-8", "replace").decode()
        return msgspec.Raw(msgspec.json.encode(f"{text:.200}"))


def reply_to(command: Command, answered: Answered, *, source: str, now: datetime, sequence: int = 0) -> Message:
    """The reply as a row of the outbox: key = saga id, id derived from the command's, its headers echoed.

    What `message_of` makes of `Reply.headers()`, without the way there and back.
    """
    extras = dict(command.passed_on)
    if command.subject is not None:
        extras["ce_subject"] = command.subject
    if answered.effect == "unknown":
        extras["ce_sagaeffect"] = "unknown"
    if answered.rejected and answered.code == "expired":
        extras["ce_sagarejected"] = "true"  # else it would be taken for the protocol's own, which is tried again
    if answered.mismatch:
        extras[MISMATCH] = "true"
    if answered.retry_after is not None:
        extras["ce_sagaretryafter"] = f"{answered.retry_after:g}"
    return Message(
        id=reply_id(command.id, answered.outcome, sequence),
        aggregatetype=command.reply_to,
        aggregateid=command.saga_id,
        type=f"{command.activity}.reply",
        payload=answered.body,
        content_type=answered.content_type,
        created_at=now.astimezone(UTC),
        source=source,
        causation_id=command.id,
        correlation_id=command.saga_id,
        saga_id=command.saga_id,
        saga_type=command.saga_type,
        saga_step=command.step,
        saga_action=command.action,
        saga_attempt=command.attempt,
        saga_outcome=answered.outcome,
        saga_error=answered.code,
        traceparent=extras.pop("traceparent", None),
        tracestate=extras.pop("tracestate", None),
        headers=extras,
    )


def readdressed(stored: Message, command: Command, *, source: str, now: datetime) -> Message:
    """The stored reply's outcome and body as the reply to another attempt's command."""
    answered = Answered(outcome="success", body=stored.payload, content_type=stored.content_type)
    return reply_to(command, answered, source=source, now=now)


def _text_of(error: object) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a broken __str__ of somebody's exception
        return type(error).__name__
