"""What clients ask of a coordinator, as the messages that travel: on Kafka directly, or through the caller's outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from segue.clock import Clock, fresh_id
from segue.contract import Signal
from segue.errors import UsageError
from segue.ids import derive
from segue.limits import MAX_ID_LENGTH, check_id
from segue.outbox.message import Message, message_of
from segue.saga.definition import SagaDefinition
from segue.topics.broker import Outgoing
from segue.topics.codec import Codecs
from segue.topics.converter import Converter
from segue.topics.envelope import Request, RequestAction
from segue.topics.names import TopicNames

T = TypeVar("T")

#: Characters of the reason of a cancellation that a coordinator keeps.
MAX_REASON = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request with its body (canonical JSON), bound for the requests topic."""

    topic: str
    request: Request
    body: bytes
    #: Whom it is for.
    coordinator: str
    #: What travels: the body in the format of the topic.
    value: bytes | None

    def outgoing(self) -> Outgoing:
        """As a record."""
        key = self.request.saga_id.encode()
        return Outgoing(topic=self.topic, key=key, value=self.value, headers=self.request.headers())

    def message(self, clock: Clock) -> Message:
        """As a row of an outbox."""
        untimed = msgspec.structs.replace(self.request, time=None)
        return message_of(self.topic, self.request.saga_id, untimed.headers(), self.value, clock.now())


class Requests:
    """Makes requests and checks what they are made of; sends nothing."""

    __slots__ = ("_clock", "_codecs", "_converter", "_names", "_source")

    def __init__(
        self, names: TopicNames, converter: Converter, clock: Clock, source: str, codecs: Codecs | None = None
    ) -> None:
        self._codecs = codecs or Codecs()
        self._names = names
        self._converter = converter
        self._clock = clock
        self._source = source

    def start(self, definition: SagaDefinition[Any, Any], input: Any, id: str | None) -> Asked:
        """A start. Raises InvalidPayload for an input of another type, InvalidId.

        Its `ce_id` is drawn anew each time, for the saga's id alone makes a start idempotent: with a derived one the
        coordinator would take another input under the same id for a duplicate and not see the conflict, and two
        starts could not wait in one outbox.
        """
        saga_id = fresh_id() if id is None else check_id("saga id", id)
        body = self._converter.to_bytes(input, definition.input_type)
        return self._asked("start", saga_id, definition.name, fresh_id(), body)

    def signal(self, saga_id: str, signal: Signal[T], value: T, id: str | None) -> Asked:
        """A signal; with an `id` it is taken once however often it is sent. Raises InvalidPayload, UsageError."""
        body = self._converter.to_bytes(value, signal.type)
        message_id = fresh_id() if id is None else derive(saga_id, "signal", signal.name, _text("signal id", id))
        return self._asked("signal", saga_id, signal.name, message_id, body)

    def cancel(self, saga_id: str, reason: str, compensate: str) -> Asked:
        """A cancellation. Raises UsageError for a `compensate` that is neither `all`, `none` nor `to:STEP`."""
        to, _, step = compensate.partition(":")
        if compensate not in ("all", "none") and not (to == "to" and step):
            raise UsageError(f"compensate={compensate!r:.80}, allowed are 'all', 'none' and 'to:STEP'")
        _text("compensate", compensate)
        _text("reason", reason, MAX_REASON)
        return self._asked("cancel", saga_id, compensate, fresh_id(), b"null", reason=reason or None)

    def _asked(
        self, action: RequestAction, saga_id: str, name: str, message_id: str, body: bytes, *, reason: str | None = None
    ) -> Asked:
        content_type, value = self._codecs.encode(self._names.requests, name, body)
        request = Request(
            id=message_id,
            action=action,
            saga_id=saga_id,
            name=name,
            source=self._source,
            time=self._clock.now(),
            reason=reason,
            content_type=content_type,
        )
        return Asked(
            topic=self._names.requests,
            request=request,
            body=body,
            coordinator=self._names.coordinator,
            value=value,
        )


def _text(what: str, value: str, longest: int = MAX_ID_LENGTH) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} {value!r:.80} is not text that can travel") from None
    if len(value) > longest or "\x00" in value:
        raise UsageError(f"{what} {value!r:.80} must be at most {longest} characters without NUL")
    return value
