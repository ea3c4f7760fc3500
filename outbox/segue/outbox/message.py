"""One row of the outbox, and the record that it becomes: a pure, reversible mapping between columns and headers.

One column per header, so that Debezium's event router can publish the table as well. Whoever publishes the row, and
however often, the record has the same bytes.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from zlib import crc32

import msgspec

from segue.topics.broker import Headers, Outgoing
from segue.topics.envelope import JSON, rfc3339

#: Number of lanes; a power of two that no estate outgrows in relays. Stored in rows: it must never change.
LANES = 64

#: Column of the outbox → header of the record, in the order in which they travel.
COLUMN_HEADERS: Mapping[str, str] = {
    "id": "ce_id",
    "source": "ce_source",
    "type": "ce_type",
    "created_at": "ce_time",
    "causation_id": "ce_causationid",
    "correlation_id": "ce_correlationid",
    "saga_id": "ce_sagaid",
    "saga_type": "ce_sagatype",
    "saga_step": "ce_sagastep",
    "saga_action": "ce_sagaaction",
    "saga_attempt": "ce_sagaattempt",
    "saga_key": "ce_sagakey",
    "saga_outcome": "ce_sagaoutcome",
    "saga_error": "ce_sagaerror",
    "deadline": "ce_sagadeadline",
    "reply_to": "ce_sagareplyto",
    "content_type": "content-type",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
#: Marks a row whose record is kept whole in its `headers`.
RAW = "segue.raw"
#: Fewer messages than this are turned into records one by one: it is faster.
_FEW = 6
_SPECVERSION = ("ce_specversion", b"1.0")
_HEADERS = tuple(COLUMN_HEADERS.values())
_VALUES = attrgetter(*COLUMN_HEADERS)
#: Positions of what is not text.
_CREATED_AT, _ATTEMPT, _DEADLINE = map(list(COLUMN_HEADERS).index, ("created_at", "saga_attempt", "deadline"))
_TEXTS: Mapping[int, Callable[[Any], bytes]] = {
    _CREATED_AT: lambda moment: _zulu(moment).encode(),
    _ATTEMPT: lambda number: str(number).encode(),
    _DEADLINE: lambda moment: _zulu(moment).encode(),
}


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A row of the outbox. `aggregatetype` is the topic, `aggregateid` the key (Debezium's names)."""

    id: str
    aggregatetype: str
    aggregateid: str
    type: str
    payload: bytes | None
    created_at: datetime
    content_type: str = JSON
    source: str | None = None
    causation_id: str | None = None
    correlation_id: str | None = None
    saga_id: str | None = None
    saga_type: str | None = None
    saga_step: str | None = None
    saga_action: str | None = None
    saga_attempt: int | None = None
    saga_key: str | None = None
    saga_outcome: str | None = None
    saga_error: str | None = None
    deadline: datetime | None = None
    reply_to: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    #: Further headers, as text; the relay sends them, Debezium can't.
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def lane(self) -> int:
        return lane_of(self.aggregateid)

    def outgoing(self) -> Outgoing:
        """The record for Kafka."""
        return record_of(_VALUES(self), self.aggregatetype, self.aggregateid, self.payload, self.headers)


def record_of(
    columns: Sequence[Any], topic: str, key: str, payload: bytes | None, extras: Mapping[str, str]
) -> Outgoing:
    """The record for Kafka of a row: the values of `COLUMN_HEADERS` in their order, and what else it has."""
    if RAW in extras:
        return _unwrapped(topic, payload, extras[RAW])
    texts = list(columns)
    texts[_CREATED_AT] = rfc3339(texts[_CREATED_AT])
    if texts[_ATTEMPT] is not None:
        texts[_ATTEMPT] = str(texts[_ATTEMPT])
    if texts[_DEADLINE] is not None:
        texts[_DEADLINE] = rfc3339(texts[_DEADLINE])
    headers: list[tuple[str, bytes | None]] = [_SPECVERSION]
    headers += [(name, text.encode()) for name, text in zip(_HEADERS, texts, strict=True) if text is not None]
    if extras:
        headers += [(name, text.encode()) for name, text in sorted(extras.items())]
    return Outgoing(topic=topic, key=key.encode() if key else None, value=payload, headers=tuple(headers))


def records_of(messages: Sequence[Message]) -> list[Outgoing]:
    """The record of each message, as `outgoing` makes it; many with the same extras in a third of the time."""
    if len(messages) < _FEW:
        return [message.outgoing() for message in messages]
    extras = messages[0].headers
    if RAW in extras or any(message.headers != extras for message in messages):
        return [message.outgoing() for message in messages]
    same = tuple((name, text.encode()) for name, text in sorted(extras.items()))
    return [
        Outgoing(
            topic=message.aggregatetype,
            key=message.aggregateid.encode() if message.aggregateid else None,
            value=message.payload,
            headers=headers + same,
        )
        for message, headers in zip(messages, headers_of(list(zip(*map(_VALUES, messages), strict=True))), strict=True)
    ]


def headers_of(columns: Sequence[Sequence[Any]]) -> list[Headers]:
    """The headers of many rows at once, from all values of each of `COLUMN_HEADERS` in their order; without extras.

    For each row those that `record_of` makes, in a fifth of the time. At least one row.
    """
    size, sparse = len(columns[0]), False
    pairs: list[list[Any]] = [[_SPECVERSION] * size]
    for place, values in enumerate(columns):
        missing = values.count(None)
        if missing < size:
            sparse = sparse or missing > 0
            pairs.append(_pairs(_HEADERS[place], values, _TEXTS.get(place, str.encode)))
    rows = zip(*pairs, strict=True)
    return [tuple(filter(None, row)) for row in rows] if sparse else list(rows)


def _zulu(moment: datetime) -> str:
    """`rfc3339` for moments that mostly are in UTC, and mostly differ."""
    text = moment.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else rfc3339(moment)


def _pairs(name: str, values: Sequence[Any], encoded: Callable[[Any], bytes]) -> list[tuple[str, bytes] | None]:
    first = values[0]
    if values.count(first) == len(values):
        return [(name, encoded(first))] * len(values)
    return [None if value is None else (name, encoded(value)) for value in values]


def message_of(topic: str, key: str, headers: Headers, payload: bytes | None, created_at: datetime) -> Message:
    """The row for a record with these headers (of `Command.headers()` and its like); the inverse of `outgoing`.

    `created_at` becomes `ce_time`; a `ce_time` among `headers` gives way to it.
    """
    texts = {name: (value or b"").decode() for name, value in headers}
    texts.pop("ce_specversion", None)
    columns: dict[str, object] = {}
    for column, header in COLUMN_HEADERS.items():
        if header in texts:
            columns[column] = texts.pop(header)
    columns["created_at"] = created_at.astimezone(UTC)
    if "deadline" in columns:
        columns["deadline"] = datetime.fromisoformat(str(columns["deadline"]))
    if "saga_attempt" in columns:
        columns["saga_attempt"] = int(str(columns["saga_attempt"]))
    return Message(aggregatetype=topic, aggregateid=key, payload=payload, headers=texts, **columns)  # type: ignore[arg-type]


def raw_message(id: str, record: Outgoing, created_at: datetime) -> Message:
    """A row that becomes exactly `record`: binary key and headers, repeated names and all (a dead letter).

    Only the relay can publish it; Debezium knows no column for such headers.
    """
    pairs = [[name, None if value is None else b64encode(value).decode()] for name, value in record.headers]
    key = None if record.key is None else b64encode(record.key).decode()
    return Message(
        id=id,
        aggregatetype=record.topic,
        aggregateid=id,
        type=RAW,
        payload=record.value,
        created_at=created_at,
        content_type="application/octet-stream",
        headers={RAW: json.dumps([key, pairs], separators=(",", ":"))},
    )


def _unwrapped(topic: str, payload: bytes | None, wrapped: str) -> Outgoing:
    key, pairs = json.loads(wrapped)
    return Outgoing(
        topic=topic,
        key=None if key is None else b64decode(key),
        value=payload,
        headers=tuple((name, None if value is None else b64decode(value)) for name, value in pairs),
    )


def lane_of(key: str) -> int:
    """The lane in which all messages with this key keep their order."""
    return crc32(key.encode()) % LANES


def pack(message: Message) -> bytes:
    """The whole message as bytes, for the inbox's stored replies and for the quarantine."""
    return _ENCODER.encode(message)


def unpack(packed: bytes) -> Message:
    """The inverse of `pack`."""
    return _DECODER.decode(packed)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Message)
