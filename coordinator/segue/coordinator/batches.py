"""The messages of one transaction as one row: what its writer publishes from memory is rarely read again.

A row of the outbox for each of them costs an insert, a delete and four index entries; this one costs them once for all.
Whoever finds a row that was not published in time makes ordinary rows of it, so that order, lanes, tries and quarantine
are the relay's alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, String
from sqlalchemy.engine import Engine

from segue.coordinator import statements
from segue.coordinator.schema import outbox
from segue.errors import RejectedWrite
from segue.failpoints import hit
from segue.outbox.message import Message
from segue.outbox.sql import SqlOutboxStore, database_now, insert_messages
from segue.outbox.store import Exclusion, PendingRow

#: Age at which a relay takes over what its writer did not publish: twice `delivery.timeout.ms`.
TAKE_OVER = timedelta(seconds=10)
#: Rows that are unpacked in one transaction.
_UNPACKED = 20
_NAMES = Message.__struct_fields__
_VALUES = attrgetter(*_NAMES)
_DEFAULTS: Mapping[str, Any] = {
    f.name: f.default for f in msgspec.structs.fields(Message) if f.default is not msgspec.NODEFAULT
}
_LENGTHS: Mapping[str, int] = {
    column.name: column.type.length or 0 for column in outbox.columns if isinstance(column.type, String)
}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ENCODER = msgspec.msgpack.Encoder()


class _Packed(msgspec.Struct, array_like=True):
    """Column by column: what is the same in all messages is there once, what is the same as the key or the saga's id
    not at all.
    """

    size: int
    same: dict[str, Any]
    like_key: list[str]
    columns: dict[str, list[Any]]
    like_saga: list[str] = []


_DECODER = msgspec.msgpack.Decoder(_Packed)


def pack_messages(messages: Sequence[Message]) -> bytes:
    """At least one message, small. Raises RejectedWrite for what the columns of the outbox could not hold."""
    return zlib.compress(check_messages(messages), 1)


def check_messages(messages: Sequence[Message]) -> bytes:
    """Raise what `pack_messages` raises; what it would compress."""
    packed = _Packed(size=len(messages), same={}, like_key=[], columns={})
    keys = [message.aggregateid for message in messages]
    sagas = [message.saga_id for message in messages]
    for name, values in zip(_NAMES, zip(*map(_VALUES, messages), strict=True), strict=True):
        first = values[0]
        if values.count(first) == len(values):
            if first is not None:
                _check(name, (first,))
            if name not in _DEFAULTS or first != _DEFAULTS[name]:
                packed.same[name] = first
        elif name != "aggregateid" and list(values) == keys:
            packed.like_key.append(name)
        elif name not in ("aggregateid", "saga_id") and list(values) == sagas:
            packed.like_saga.append(name)
        else:
            _check(name, values)
            packed.columns[name] = list(values)
    try:
        return _ENCODER.encode(packed)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise RejectedWrite(f"a message can't be stored: {error}") from error


def unpack_messages(data: bytes) -> list[Message]:
    """The inverse of `pack_messages`."""
    packed = _DECODER.decode(zlib.decompress(data))
    columns = packed.columns | {name: [value] * packed.size for name, value in packed.same.items()}
    columns |= dict.fromkeys(packed.like_key, columns["aggregateid"])
    if packed.like_saga:
        columns |= dict.fromkeys(packed.like_saga, columns["saga_id"])
    return [Message(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def sagas_of(messages: Sequence[Message]) -> list[str]:
    """The sagas whose deadlines wait for these, each once."""
    return list(dict.fromkeys(message.saga_id for message in messages if message.saga_id is not None))


def _check(name: str, values: Sequence[Any]) -> None:
    """What is unpacked must fit: a row of the outbox that can't be written would hold up its relay for ever."""
    if name == "id":
        if not all(map(_UUID.fullmatch, values)):
            raise RejectedWrite(f"outbox.id can't hold {next(v for v in values if not _UUID.fullmatch(v))!r:.80}")
    elif name == "saga_attempt":
        if any(value is not None and value >> 31 for value in values):
            raise RejectedWrite("outbox.saga_attempt can't hold so large a number")
    elif name in _LENGTHS:
        texts = [value for value in values if value is not None]
        if texts and (max(map(len, texts)) > _LENGTHS[name] or "\x00" in "".join(texts)):
            raise RejectedWrite(f"outbox.{name} can't hold {max(texts, key=len)!r:.80}")


class BatchedOutbox(SqlOutboxStore):
    """The coordinators' outbox for a relay: rows of batches become ordinary rows once they are old."""

    def __init__(self, database: Engine, take_over: timedelta = TAKE_OVER) -> None:
        """`take_over`: the age at which batches are unpacked, where the relay leaves nothing to their writers."""
        super().__init__(database)
        self._take_over = take_over

    def load(
        self, owner: str, limit: int, *, memory_first_for: timedelta | None, excluded: Exclusion
    ) -> Sequence[PendingRow]:
        age = self._take_over if memory_first_for is None else memory_first_for
        self._run(lambda connection: _unpack(connection, age))
        return super().load(owner, limit, memory_first_for=memory_first_for, excluded=excluded)


def _unpack(connection: Connection, age: timedelta) -> None:
    before = database_now(connection) - age
    if connection.execute(statements.old_batches(before, 1)).first() is None:
        return
    taken = connection.execute(statements.take_batches(before, _UNPACKED)).all()
    for row in sorted(taken, key=lambda row: int(row.seq)):
        insert_messages(connection, unpack_messages(row.messages))
    hit("relay.before_unpack")
