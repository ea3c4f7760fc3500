"""A participant's part in one command, in whatever transaction: the fence's decision, the handler, the reply."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal, assert_never

import msgspec

from segue.activities.context import Context
from segue.activities.handlers import Prepared, Registration
from segue.activities.outcome import Answered, Rejected, ReplyLater, failure, readdressed, rejection, reply_to, unfit
from segue.activities.runner import Desk, Sessions
from segue.activities.shared import GUARD, transaction_ended
from segue.errors import DecodeError, InputError
from segue.limits import DEFAULT_LIMITS, Limits
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
    proves_no_effect,
    store_answer,
)
from segue.outbox.message import Message, unpack
from segue.outbox.store import ServiceRows
from segue.topics.codec import NULL, Codecs, JsonCodec
from segue.topics.converter import Converter
from segue.topics.envelope import MISMATCH, Command


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to do after the commit."""

    #: Committed with the fence row, or derived from it alone: to be sent until Kafka has it.
    reply: Message | None = None
    #: (reason, error) if the record is to be dead-lettered.
    dead: tuple[str, Exception] | None = None


class TooOld(InputError):
    """The command is older than the inbox remembers; nobody can say whether it was handled."""

    code = "beyond_horizon"


class InvalidOutput(InputError):
    """The handler returned what its contract does not know: a bug of the service, and no refusal of the business."""

    code = "invalid_output"


class Participant:
    """Answers commands of one consumer. Stateless; used by many threads at once."""

    def __init__(
        self,
        consumer: str,
        *,
        converter: Converter,
        beat: Callable[[Prepared, Any, int], None],
        codecs: Codecs | None = None,
        session: Any = None,
        horizon: timedelta = HORIZON,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.consumer = consumer
        self._converter = converter
        self._beat = beat
        #: What handlers are handed instead of the session, where that is none of theirs.
        self._session = session
        self._codecs = codecs or Codecs(limits=limits)
        self._horizon = horizon
        self._limits = limits

    @property
    def source(self) -> str:
        """`ce_source` of the replies."""
        return f"/{self.consumer}"

    # --- the handler

    def behind_savepoint(self, desk: Desk, sessions: Sessions, prepared: Prepared, fence: Fence) -> Answered:
        """Run the handler in the worker's transaction; what a rejection leaves behind is rolled back, and nothing else.

        Raises what the handler raises, UsageError where it ended the transaction.
        """
        session = sessions.session
        savepoint = session.begin_nested()
        session.info[GUARD] = savepoint
        try:
            try:
                answered = self.called(desk, sessions, prepared, fence)
            except Rejected as rejected:
                savepoint.rollback()
                return rejection(rejected)
            if not savepoint.is_active or session.get_nested_transaction() is not savepoint:
                raise transaction_ended(prepared.command.activity)
            session.flush()
        finally:
            session.info.pop(GUARD, None)
        savepoint.commit()
        return answered

    def called(self, desk: Desk, sessions: Sessions, prepared: Prepared, fence: Fence) -> Answered:
        """Run the handler. Raises what it raises, InvalidOutput for an output that its contract does not know."""
        registration = prepared.registration
        assert registration is not None
        try:
            output = desk.call(registration.function, self._context(sessions.handed, prepared, fence), prepared.input())
        except ReplyLater:
            # In the format that its answer must have: who gives that, gives it elsewhere.
            return self._nothing("pending", prepared.command)
        return self._success(prepared.command, output, registration)

    def _success(self, command: Command, output: Any, registration: Registration) -> Answered:
        activity = registration.activity
        try:
            body = self._converter.to_bytes(output, activity.output)
        except Exception as error:
            raise InvalidOutput(f"{activity.name} returned no {activity.output}: {error}") from error
        limits = self._limits
        if len(body) > limits.payload_bytes:
            raise InvalidOutput(f"{activity.name} returned {len(body)} bytes, allowed are {limits.payload_bytes}")
        # Nearly no output has so many keys; the coordinator could read none that has.
        if body.count(b":") > limits.json_keys:
            try:
                JsonCodec(limits).decode(body)
            except DecodeError as error:
                raise InvalidOutput(f"{activity.name} returned what nobody may read: {error}") from error
        try:
            content_type, value = self._codecs.encode(command.reply_to, f"{activity.name}.reply", body)
        except InputError as error:
            raise InvalidOutput(f"what {activity.name} returned can't be sent: {error}") from error
        return Answered(outcome="success", body=value, content_type=content_type)

    def _nothing(self, outcome: Literal["success", "pending"], command: Command) -> Answered:
        """A null in the format of the topic."""
        content_type, value = self._codecs.encode(command.reply_to, f"{command.activity}.reply", NULL)
        return Answered(outcome=outcome, body=value, content_type=content_type)

    # --- the fence and the reply

    def decided(self, rows: ServiceRows, prepared: Prepared) -> tuple[Fence, datetime, Handled | None]:
        """Lock the fence row; what it decides, or None where the handler is to run."""
        command = prepared.command
        fence, now = lock_fence(rows, self.consumer, command.key)
        decision = decide(fence, command, now, self._horizon)
        match decision:
            case Handle():
                return fence, now, self._refused(rows, prepared, fence, now)
            case AnswerStored():
                message = decision.reply
            case AnswerAgain():
                message = readdressed(decision.reply, command, source=self.source, now=now)
                store_answer(rows, self.consumer, command, "success", message, tombstone=False)
            case Tombstone():
                message = self._reply(command, self._nothing("success", command), now)
                store_answer(rows, self.consumer, command, "success", message, tombstone=True)
            case Refuse():
                answered = self._sticky(fence, command, failure(decision.code, decision.message))
                message = self._reply(command, answered, now)
                if decision.stored:
                    outcome = answered.stored_outcome
                    store_answer(rows, self.consumer, command, outcome, message, tombstone=False)
            case DeadLetter():
                forget_fence(rows, self.consumer, command.key)
                return fence, now, Handled(dead=("beyond_horizon", TooOld(decision.reason)))
            case _:
                assert_never(decision)
        # A first command that is delivered again may have died before its dead letter was there.
        return fence, now, Handled(reply=message, dead=_dead(prepared) if command.attempt == 1 else None)

    def _refused(self, rows: ServiceRows, prepared: Prepared, fence: Fence, now: datetime) -> Handled | None:
        fault = prepared.fault
        if fault is None:
            return None
        handled = self.answer(rows, prepared.command, fence, unfit(fault.code, str(fault.error)), now)
        # A mismatch lasts as long as a deploy: one of its commands is enough for people to look at.
        known = fence.answer_to(prepared.command).reply
        again = known is not None and MISMATCH in unpack(known).headers
        return Handled(reply=handled.reply, dead=None if again else _dead(prepared))

    def answer(
        self,
        rows: ServiceRows,
        command: Command,
        fence: Fence,
        answered: Answered,
        now: datetime,
        *,
        begun: bool = False,
    ) -> Handled:
        """Store the reply, which is sent once that is committed. `begun`: this delivery has noted its beginning."""
        answered = self._sticky(fence, command, answered, begun=begun)
        message = self._reply(command, answered, now)
        store_answer(rows, self.consumer, command, answered.stored_outcome, message, tombstone=False)
        return Handled(reply=message)

    def _sticky(self, fence: Fence, command: Command, answered: Answered, *, begun: bool = False) -> Answered:
        """A negative answer proves nothing while an earlier delivery may have had an effect."""
        if answered.outcome not in ("failure", "retry") or answered.effect == "unknown":
            return answered
        if proves_no_effect(fence, command, begun=begun):
            return answered
        return msgspec.structs.replace(answered, effect="unknown")

    def _reply(self, command: Command, answered: Answered, now: datetime) -> Message:
        return reply_to(command, answered, source=self.source, now=now)

    def _context(self, handed: Any, prepared: Prepared, fence: Fence) -> Context[Any]:
        command = prepared.command
        return Context(
            session=handed if self._session is None else self._session,
            command=command,
            details=_details(prepared, fence),
            token=f"{self.consumer}/{command.action}/{command.key}",
            beat=lambda details: self._beat(prepared, details, fence.lease),
        )


def _dead(prepared: Prepared) -> tuple[str, Exception] | None:
    return None if prepared.fault is None else (prepared.fault.code, prepared.fault.error)


def _details(prepared: Prepared, fence: Fence) -> Any:
    # A compensation must not resume where the invoke's heartbeats ended.
    first_undo = prepared.command.action == "compensate" and fence.compensate.attempt == 0
    return None if fence.details is None or first_undo else msgspec.json.decode(fence.details)
