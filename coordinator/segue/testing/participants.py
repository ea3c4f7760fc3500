"""Participants as `explore` plays them: users' functions behind the fence that the real worker has.

What becomes of a command is decided by `segue.outbox.inbox.decide`, from one row per occurrence, as in production; only
the row is a value in a dict. Beside it stands the truth that rules are checked against: whose effect stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, assert_never

import msgspec

from segue.clock import from_micros
from segue.outbox.inbox import (
    Answer,
    AnswerAgain,
    AnswerStored,
    DeadLetter,
    Fence,
    Handle,
    Refuse,
    StoredOutcome,
    Tombstone,
    decide,
    proves_no_effect,
)
from segue.outbox.message import Message, pack
from segue.saga.effects import SendCommand
from segue.saga.events import NULL
from segue.saga.inputs import Reply
from segue.testing import answers
from segue.testing.contracts import Contracts
from segue.testing.failures import NotMocked
from segue.topics.converter import Converter
from segue.topics.envelope import Command

#: What a participant does instead of its handler's will.
Behaviour = Literal["normal", "refuse", "retry", "effect_unknown", "pending", "lacking"]
_EXPLORED = "explored"


@dataclass(slots=True)
class Truth:
    """What the participants really did."""

    #: Steps whose effect stands now.
    standing: dict[str, None] = field(default_factory=dict)
    #: Steps whose compensation has run, in order.
    undone: list[str] = field(default_factory=list)
    #: What must never happen, as sentences.
    anomalies: list[str] = field(default_factory=list)
    #: Compensation → how often its handler ran, by what was known of its step (`success`, `unknown`).
    exercised: Counter[tuple[str, str]] = field(default_factory=Counter)


class Participants:
    """All services that one saga talks to."""

    def __init__(
        self,
        saga_id: str,
        saga_type: str,
        contracts: Contracts,
        functions: Mapping[str, Callable[[Any], Any]],
        converter: Converter,
    ) -> None:
        self._saga_id = saga_id
        self._saga_type = saga_type
        self._contracts = contracts
        self._functions = functions
        self._converter = converter
        self._fences: dict[str, Fence] = {}
        #: Answers to come to commands that were answered `pending`, by command id.
        self._kept: dict[str, answers.Answer] = {}
        self.truth = Truth()

    def receive(self, command: SendCommand, now: int, behaviour: Behaviour = "normal") -> Reply | None:
        """What becomes of a command that arrives at `now` (microseconds); the reply, None for silence."""
        fence = self._fences.get(command.step, Fence())
        envelope = self._envelope(command)
        decision = decide(fence, envelope, from_micros(now))
        match decision:
            case AnswerStored():
                return _reply(command, decision.reply)
            case AnswerAgain():
                self._store(command, fence, "success", decision.reply)
                return _reply(command, decision.reply)
            case Tombstone():
                message = _message(answers.Answer(outcome="success"), envelope)
                self._store(command, fence, "success", message, tombstone=True)
                return _reply(command, message)
            case Refuse():
                answer = _sticky(fence, envelope, answers.negative("failure", decision.code, decision.message))
                message = _message(answer, envelope)
                if decision.stored:
                    self._store(command, fence, _stored(answer), message)
                return _reply(command, message)
            case DeadLetter():
                return None
            case Handle():
                return self._handle(command, fence, envelope, behaviour)

    def answer_later(self, command: SendCommand) -> Reply | None:
        """The real answer to a command that was answered `pending`; None if it has been compensated meanwhile."""
        fence = self._fences[command.step]
        known = fence.invoke if command.action == "invoke" else fence.compensate
        if known.command_id != command.id or known.outcome != "pending":
            return None
        if command.action == "invoke" and fence.compensate.attempt > 0:
            return None
        return self._answered(command, fence, self._envelope(command), self._kept.pop(command.id))

    def _handle(self, command: SendCommand, fence: Fence, envelope: Command, behaviour: Behaviour) -> Reply | None:
        match behaviour:
            case "normal":
                answer = self._call(command, fence)
            case "refuse":
                answer = answers.negative("failure", _EXPLORED, "refused by explore")
            case "retry":
                answer = answers.negative("retry", _EXPLORED, "busy, says explore")
            case "pending":
                # What it does is done and committed; only the answer takes its time.
                self._kept[command.id] = self._call(command, fence)
                answer = answers.Answer(outcome="pending")
            case "lacking":
                answer = answers.mismatch(self._contracts[command.activity])
            case "effect_unknown":
                answer = replace(self._call(command, fence), outcome="retry", code=_EXPLORED, effect_unknown=True)
                answer = replace(answer, body=msgspec.Raw(b'{"message":"done, but explore does not admit it"}'))
            case _:
                assert_never(behaviour)
        return self._answered(command, fence, envelope, answer)

    def _answered(self, command: SendCommand, fence: Fence, envelope: Command, answer: answers.Answer) -> Reply | None:
        if answer.outcome == "silence":
            return None
        answer = _sticky(fence, envelope, answer)
        message = _message(answer, envelope)
        self._store(command, fence, _stored(answer), message)
        return _reply(command, message)

    def _call(self, command: SendCommand, fence: Fence) -> answers.Answer:
        activity = self._contracts[command.activity]
        function = self._functions.get(activity.name)
        if function is None and command.action == "invoke":
            raise NotMocked(f"explore has no function for {activity.name}, and the saga calls it")
        output = None
        if function is not None:
            value = self._converter.from_bytes(command.body, activity.input)
            try:
                output = answers.call(function, value)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes an answer
                return answers.answer_of_exception(error)
        answer = answers.success(output, activity, self._converter)
        self._note(command, fence, readonly=activity.readonly)
        return answer

    def _note(self, command: SendCommand, fence: Fence, *, readonly: bool) -> None:
        truth = self.truth
        if command.action == "invoke":
            if command.step in truth.undone or fence.tombstone:
                truth.anomalies.append(f"{command.step} was done after it had been undone")
            if not readonly:
                truth.standing[command.step] = None
            return
        truth.exercised[command.activity, "success" if fence.invoke.outcome == "success" else "unknown"] += 1
        truth.standing.pop(command.step, None)
        truth.undone.append(command.step)

    def _envelope(self, command: SendCommand) -> Command:
        return Command(
            id=command.id,
            activity=command.activity,
            saga_id=self._saga_id,
            saga_type=self._saga_type,
            step=command.step,
            action=command.action,
            attempt=command.attempt,
            key=command.key,
            done=command.done,
            reply_to="replies",
            source="/test",
            deadline=None if command.deadline is None else from_micros(command.deadline),
            time=from_micros(command.sent_at),
        )

    def _store(
        self, command: SendCommand, fence: Fence, outcome: StoredOutcome, message: Message, *, tombstone: bool = False
    ) -> None:
        answer = Answer(attempt=command.attempt, command_id=command.id, outcome=outcome, reply=pack(message))
        fence = msgspec.structs.replace(fence, new=False, tombstone=fence.tombstone or tombstone)
        if command.action == "invoke":
            fence = msgspec.structs.replace(fence, invoke=answer)
        else:
            fence = msgspec.structs.replace(fence, compensate=answer)
        self._fences[command.step] = fence


def _sticky(fence: Fence, command: Command, answer: answers.Answer) -> answers.Answer:
    """A negative answer proves nothing while an earlier delivery may have had an effect; as the worker does it."""
    if answer.outcome not in ("failure", "retry") or proves_no_effect(fence, command):
        return answer
    return replace(answer, effect_unknown=True)


def _stored(answer: answers.Answer) -> StoredOutcome:
    assert answer.outcome != "silence"
    return "unknown" if answer.effect_unknown else answer.outcome


def _message(answer: answers.Answer, command: Command) -> Message:
    """What the fence row keeps; only what a reply says is in it."""
    return Message(
        id=command.id,
        aggregatetype=command.reply_to,
        aggregateid=command.saga_id,
        type=command.activity,
        payload=bytes(answer.body),
        created_at=command.time or from_micros(0),
        saga_outcome=answer.outcome,
        saga_error=answer.code or None,
        headers={name: "true" for name in ("effect_unknown", "rejected") if getattr(answer, name)},
    )


def _reply(command: SendCommand, message: Message) -> Reply:
    return Reply(
        command_id=command.id,
        outcome=message.saga_outcome,  # type: ignore[arg-type] # written by _message
        body=msgspec.Raw(message.payload) if message.payload is not None else NULL,
        error=message.saga_error or "",
        effect_unknown="effect_unknown" in message.headers,
        rejected="rejected" in message.headers,
        message_id=message.id,
    )
