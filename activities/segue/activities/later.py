"""Answering a command long after its handler has raised `ReplyLater`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, overload

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from segue.activities.outcome import Answered, Rejected, rejection, reply_to
from segue.errors import NotAllowed, NotFound, UsageError
from segue.outbox.fences import SqlServiceRows
from segue.outbox.inbox import Fence, lock_fence, store_answer
from segue.outbox.message import Message, unpack
from segue.outbox.store import ServiceRows
from segue.outbox.writer import add_message
from segue.topics.codec import NULL, Codecs
from segue.topics.converter import Converter
from segue.topics.envelope import JSON, Command

_CONVERTER = Converter()


@overload
def reply(session: Session, token: str, output: Any = None, *, codecs: Codecs | None = None) -> None: ...
@overload
def reply(
    session: AsyncSession, token: str, output: Any = None, *, codecs: Codecs | None = None
) -> Awaitable[None]: ...
def reply(
    session: Session | AsyncSession, token: str, output: Any = None, *, codecs: Codecs | None = None
) -> Awaitable[None] | None:
    """Answer `success` with `output`, if and only if the session's transaction commits; `token` is `ctx.token`.

    `codecs` are the worker's, where its replies are not JSON (`codecs_of(settings)`). Raises UsageError where they are
    needed and not given, InvalidPayload for an output that the topic's schema can't hold, Unavailable while the
    registry can't be asked; then nothing is written.

    A second call, or one after the command was answered otherwise, does nothing. Raises NotAllowed where the step was
    compensated meanwhile (roll back then: what you are about to do will not be undone). Raises NotFound for an unknown
    token, and for one whose handler's `ReplyLater` is not committed yet: who is told the token earlier tries again.
    Await it with an AsyncSession.
    """
    answered = Answered(outcome="success", body=_CONVERTER.to_bytes(output, None if output is None else type(output)))
    return _in_session(session, token, answered, codecs)


@overload
def reject(session: Session, token: str, rejected: Rejected) -> None: ...
@overload
def reject(session: AsyncSession, token: str, rejected: Rejected) -> Awaitable[None]: ...
def reject(session: Session | AsyncSession, token: str, rejected: Rejected) -> Awaitable[None] | None:
    """Answer `failure`: what the handler did before `ReplyLater` is undone by the caller in this same transaction."""
    return _in_session(session, token, rejection(rejected))


def _in_session(
    session: Session | AsyncSession, token: str, answered: Answered, codecs: Codecs | None = None
) -> Awaitable[None] | None:
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _answer(sync, token, answered, codecs))
    _answer(session, token, answered, codecs)
    return None


def _answer(session: Session, token: str, answered: Answered, codecs: Codecs | None) -> None:
    message = settle(SqlServiceRows(session.connection()), token, answered, codecs)
    if message is not None:
        add_message(session, message)


def settle(rows: ServiceRows, token: str, answered: Answered, codecs: Codecs | None = None) -> Message | None:
    """Store the answer in the fence row; the reply, for the outbox of the same transaction, or None: it has one.

    Raises what `reply` does.
    """
    consumer, action, key = _parts(token)
    fence, now = lock_fence(rows, consumer, key)
    known = fence.invoke if action == "invoke" else fence.compensate
    if fence.new or known.reply is None or known.command_id is None:
        if fence.new:
            rows.delete_inbox_row(consumer, key)
        raise NotFound(f"no command waits for an answer under the token of {key!r:.200}, or not yet")
    _refuse_undone(fence, action, key)
    if known.outcome != "pending":
        return None
    pending = unpack(known.reply)
    if answered.outcome == "success":
        answered = _formatted(answered, pending, codecs)
    command = _command_of(pending, known.command_id, known.attempt, action, key)
    message = reply_to(command, answered, source=f"/{consumer}", now=now)
    store_answer(rows, consumer, command, answered.stored_outcome, message, tombstone=False)
    return message


def _formatted(answered: Answered, pending: Message, codecs: Codecs | None) -> Answered:
    """The answer in the format of its topic, which the `pending` reply was in already."""
    if codecs is None:
        if pending.content_type == JSON:
            return answered
        raise UsageError(
            f"replies on {pending.aggregatetype} are {pending.content_type}; give `reply` the worker's codecs "
            "(codecs=codecs_of(settings), from segue.settings.deployment)"
        )
    content_type, value = codecs.encode(pending.aggregatetype, pending.type, answered.body or NULL)
    return msgspec.structs.replace(answered, content_type=content_type, body=value)


def _refuse_undone(fence: Fence, action: str, key: str) -> None:
    if action == "invoke" and (fence.tombstone or fence.compensate.attempt > 0):
        raise NotAllowed(f"{key!r:.200} was compensated while its answer was awaited")


def _parts(token: str) -> tuple[str, str, str]:
    consumer, _, rest = token.partition("/")
    action, _, key = rest.partition("/")
    if not consumer or action not in ("invoke", "compensate") or not key:
        raise UsageError(f"token {token!r:.80} is none that a Context gave")
    return consumer, action, key


def _command_of(pending: Message, command_id: str, attempt: int, action: str, key: str) -> Command:
    """What a reply echoes of its command, taken from the `pending` reply that was sent first."""
    return Command(
        id=command_id,
        activity=pending.type.removesuffix(".reply"),
        saga_id=pending.aggregateid,
        saga_type=pending.saga_type or "",
        step=pending.saga_step or "",
        action="compensate" if action == "compensate" else "invoke",
        attempt=attempt,
        key=key,
        reply_to=pending.aggregatetype,
        source="",
        subject=pending.headers.get("ce_subject"),
        passed_on=tuple(
            (name, value)
            for name, value in (("traceparent", pending.traceparent), ("tracestate", pending.tracestate))
            if value is not None
        ),
    )
