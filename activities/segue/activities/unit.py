"""The unit of work: fence, handler and reply of a command in one transaction.

    joined   one transaction: lock the fence row, decide, run the handler behind a savepoint, store the reply, send it
             through the outbox. If the handler fails all is rolled back, and a second transaction stores the `retry`.
    manual   a transaction that notes the beginning, the handler in none, a transaction that stores the reply.

Killed at any line, it can be run again: before the commit nothing happened, after it the stored reply answers. Nothing
is sent that is not in a committed row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

import msgspec
from sqlalchemy import event
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from segue.activities.context import Context
from segue.activities.handlers import Prepared, Registration
from segue.activities.outcome import (
    Answered,
    Rejected,
    ReplyLater,
    answer_of_exception,
    failure,
    readdressed,
    reply_to,
)
from segue.activities.runner import Desk, Sessions
from segue.errors import InputError, UsageError
from segue.failpoints import hit
from segue.limits import DEFAULT_LIMITS, Limits
from segue.outbox.faults import is_transient_database
from segue.outbox.inbox import (
    HORIZON,
    AnswerAgain,
    AnswerStored,
    DeadLetter,
    Fence,
    Handle,
    Refuse,
    Tombstone,
    decide,
    forget_fence,
    lock_fence,
    may_have_had_an_effect,
    store_answer,
    store_begun,
)
from segue.outbox.message import Message
from segue.topics.converter import Converter
from segue.topics.envelope import Command

#: Set in `Session.info` to the savepoint behind which a handler runs, so that its `commit()` can be refused.
_SAVEPOINT = "segue.activities.savepoint"
#: Tries of one transaction in this process, before a transient database error becomes a `retry` or stops the partition.
LOCAL_TRIES = 3
#: What else than `Exception` a handler may raise without taking the worker along.
_HANDLER_ERRORS = (Exception, SystemExit, asyncio.CancelledError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What is left to do after the commit."""

    #: Committed to the outbox; to be published from memory.
    replies: Sequence[Message] = ()
    #: (reason, error) if the record is to be dead-lettered.
    dead: tuple[str, Exception] | None = None


class TooOld(InputError):
    """The command is older than the inbox remembers; nobody can say whether it was handled."""

    code = "beyond_horizon"


class _HandlerRaised(Exception):
    """The handler, or the commit of what it wrote, failed; everything was rolled back."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class UnitOfWork:
    """Runs commands of one consumer. Stateless; used by many threads at once."""

    def __init__(
        self,
        consumer: str,
        *,
        converter: Converter,
        beat: Callable[[Prepared, Any], None],
        horizon: timedelta = HORIZON,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._consumer = consumer
        self._converter = converter
        self._beat = beat
        self._horizon = horizon
        self._limits = limits

    def run(self, desk: Desk, batch: Sequence[Prepared]) -> Sequence[Handled]:
        """Handle the commands, in this order; the result of each. Raises what the database raises.

        A list, so that handlers which only touch the database can one day share a transaction.
        """
        return [self._run_one(desk, prepared) for prepared in batch]

    def _run_one(self, desk: Desk, prepared: Prepared) -> Handled:
        registration = prepared.registration
        step = self._joined if registration is None or registration.transaction == "joined" else self._manual
        retrying = Retrying(
            stop=stop_after_attempt(LOCAL_TRIES),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            retry=retry_if_exception(lambda error: is_transient_database(_cause(error))),
            sleep=desk.sleep,
            reraise=True,
        )
        try:
            return retrying(step, desk, prepared)
        except _HandlerRaised as raised:
            return self._answer_exception(desk, prepared, raised.cause)

    # --- joined

    def _joined(self, desk: Desk, prepared: Prepared) -> Handled:
        started = False
        try:
            with desk.transaction() as sessions:
                fence, now, handled = self._decided(sessions, prepared)
                if handled is not None:
                    return handled
                started = True
                assert prepared.registration is not None
                answered = self._behind_savepoint(desk, sessions, prepared, prepared.registration, fence)
                handled = self._answer(sessions, prepared.command, fence, answered, now)
                hit("worker.before_commit")
                return handled
        except _HANDLER_ERRORS as error:
            if started:
                raise _HandlerRaised(error) from error
            raise

    def _behind_savepoint(
        self, desk: Desk, sessions: Sessions, prepared: Prepared, registration: Registration, fence: Fence
    ) -> Answered:
        session = sessions.session
        savepoint = session.begin_nested()
        session.info[_SAVEPOINT] = savepoint
        try:
            try:
                answered = self._called(desk, prepared, registration, self._context(sessions.handed, prepared, fence))
            except Rejected as rejected:
                savepoint.rollback()
                return failure(rejected.code, rejected.message, rejected.details)
            if not savepoint.is_active or session.get_nested_transaction() is not savepoint:
                raise UsageError(
                    f"the handler of {prepared.command.activity} ended the worker's transaction or left "
                    'a savepoint open; it must not commit or roll back (or register it with transaction="manual")'
                )
            session.flush()
        finally:
            session.info.pop(_SAVEPOINT, None)
        savepoint.commit()
        return answered

    def _called(self, desk: Desk, prepared: Prepared, registration: Registration, context: Context[Any]) -> Answered:
        try:
            output = desk.call(registration.function, context, prepared.value)
        except ReplyLater:
            return Answered(outcome="pending")
        return Answered(outcome="success", body=self._encoded(output, registration))

    def _encoded(self, output: Any, registration: Registration) -> bytes:
        activity = registration.activity
        try:
            body = self._converter.to_bytes(output, activity.output)
        except Exception as error:
            raise Rejected("invalid_output", f"{activity.name} returned no {activity.output}: {error}") from error
        if len(body) > self._limits.payload_bytes:
            limit = self._limits.payload_bytes
            raise Rejected("invalid_output", f"{activity.name} returned {len(body)} bytes, allowed are {limit}")
        return body

    # --- manual

    def _manual(self, desk: Desk, prepared: Prepared) -> Handled:
        with desk.transaction() as sessions:
            fence, _, handled = self._decided(sessions, prepared)
            if handled is not None:
                return handled
            store_begun(sessions.rows, self._consumer, prepared.command, fence)
        assert prepared.registration is not None
        try:
            with desk.bare() as sessions:
                context = self._context(sessions.handed, prepared, fence)
                answered = self._called(desk, prepared, prepared.registration, context)
        except Rejected as rejected:
            answered = failure(rejected.code, rejected.message, rejected.details)
        except _HANDLER_ERRORS as error:
            # No local retry: outside of a transaction nothing proves that the handler did not do it.
            answered = answer_of_exception(error, effect="unknown")
        return self._answer_later(desk, prepared, answered)

    def _answer_later(self, desk: Desk, prepared: Prepared, answered: Answered) -> Handled:
        command = prepared.command
        for attempt in self._persistently(desk):
            with attempt, desk.transaction() as sessions:
                fence, now = lock_fence(sessions.rows, self._consumer, command.key)
                known = fence.answer_to(command)
                if known.command_id == command.id and known.reply is not None:
                    _, _, handled = self._decided(sessions, prepared)  # a second delivery was faster
                    return handled or Handled()
                if command.action == "invoke" and fence.compensate.attempt > 0:
                    answered = failure("compensated", "it was compensated while it was being done", effect="unknown")
                return self._answer(sessions, command, fence, answered, now)
        raise AssertionError("unreachable: the retrying re-raises")

    def _persistently(self, desk: Desk) -> Retrying:
        """For the answer of a handler that can't be run again for nothing: about a minute of tries."""
        return Retrying(
            stop=stop_after_attempt(20),
            wait=wait_exponential(multiplier=0.05, max=5),
            retry=retry_if_exception(is_transient_database),
            sleep=desk.sleep,
            reraise=True,
        )

    # --- both

    def _decided(self, sessions: Sessions, prepared: Prepared) -> tuple[Fence, datetime, Handled | None]:
        """Lock the fence row; what it decides, or None where the handler is to run."""
        rows, command = sessions.rows, prepared.command
        fence, now = lock_fence(rows, self._consumer, command.key)
        decision = decide(fence, command, now, self._horizon)
        match decision:
            case Handle():
                return fence, now, self._refused(sessions, prepared, fence, now)
            case AnswerStored():
                message = decision.reply
            case AnswerAgain():
                message = readdressed(decision.reply, command, source=self.source, now=now)
                store_answer(rows, self._consumer, command, "success", message, tombstone=False)
            case Tombstone():
                message = self._reply(command, Answered(outcome="success"), now)
                store_answer(rows, self._consumer, command, "success", message, tombstone=True)
            case Refuse():
                answered = self._sticky(fence, command, failure(decision.code, decision.message))
                message = self._reply(command, answered, now)
                if decision.stored:
                    outcome = answered.stored_outcome
                    store_answer(rows, self._consumer, command, outcome, message, tombstone=False)
            case DeadLetter():
                forget_fence(rows, self._consumer, command.key)
                return fence, now, Handled(dead=("beyond_horizon", TooOld(decision.reason)))
            case _:
                assert_never(decision)
        rows.insert_messages([message])
        return fence, now, Handled(replies=(message,), dead=_dead(prepared))

    def _refused(self, sessions: Sessions, prepared: Prepared, fence: Fence, now: datetime) -> Handled | None:
        fault = prepared.fault
        if fault is None:
            return None
        answered = failure(fault.code, str(fault.error))
        handled = self._answer(sessions, prepared.command, fence, answered, now)
        return Handled(replies=handled.replies, dead=_dead(prepared))

    def _answer_exception(self, desk: Desk, prepared: Prepared, error: BaseException) -> Handled:
        """The second transaction: the first one, with all that the handler did, is rolled back."""
        with desk.transaction() as sessions:
            fence, now, handled = self._decided(sessions, prepared)
            if handled is not None:
                return handled
            answered = answer_of_exception(error, effect="none")
            return self._answer(sessions, prepared.command, fence, answered, now)

    def _answer(self, sessions: Sessions, command: Command, fence: Fence, answered: Answered, now: datetime) -> Handled:
        answered = self._sticky(fence, command, answered)
        message = self._reply(command, answered, now)
        rows = sessions.rows
        store_answer(rows, self._consumer, command, answered.stored_outcome, message, tombstone=False)
        rows.insert_messages([message])
        return Handled(replies=(message,))

    def _sticky(self, fence: Fence, command: Command, answered: Answered) -> Answered:
        """A negative answer proves nothing while an earlier delivery may have had an effect."""
        if answered.outcome not in ("failure", "retry") or answered.effect == "unknown":
            return answered
        known = fence.answer_to(command)
        own_beginning = known.command_id == command.id and known.outcome is None
        if own_beginning or not may_have_had_an_effect(known):
            return answered
        return replace(answered, effect="unknown")

    def _reply(self, command: Command, answered: Answered, now: datetime) -> Message:
        return reply_to(command, answered, source=self.source, now=now)

    @property
    def source(self) -> str:
        """`ce_source` of the replies."""
        return f"/{self._consumer}"

    def _context(self, handed: Any, prepared: Prepared, fence: Fence) -> Context[Any]:
        command = prepared.command
        return Context(
            session=handed,
            command=command,
            details=_details(prepared, fence),
            token=f"{self._consumer}/{command.action}/{command.key}",
            beat=lambda details: self._beat(prepared, details),
        )


def _dead(prepared: Prepared) -> tuple[str, Exception] | None:
    return None if prepared.fault is None else (prepared.fault.code, prepared.fault.error)


def _details(prepared: Prepared, fence: Fence) -> Any:
    # A compensation must not resume where the invoke's heartbeats ended.
    first_undo = prepared.command.action == "compensate" and fence.compensate.attempt == 0
    return None if fence.details is None or first_undo else msgspec.json.decode(fence.details)


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, _HandlerRaised) else error


@event.listens_for(Session, "before_commit")
def _refuse_commit(session: Session) -> None:
    savepoint = session.info.get(_SAVEPOINT) if session.info else None
    if savepoint is not None and session.get_nested_transaction() is savepoint:
        raise UsageError('a handler must not commit: the worker does (or register it with transaction="manual")')
