"""Avro through fastavro in the Confluent wire format: a zero byte, the schema's id (4 bytes, big-endian), the datum.

As JSON a datum looks like this: records and maps are objects, unions hold the value alone (no branch name), bytes and
fixed are base64, enums their symbol. Logical types: decimal and uuid are strings, date `2026-11-21`, time `10:30:00`,
timestamp `2026-11-21T10:30:00.5Z`, local timestamp the same without Z. Written back, the first branch of a union that
fits is taken.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol
from uuid import UUID

import fastavro
import msgspec
from fastavro.schema import SchemaParseException, parse_schema

from segue.errors import ConfigError, DecodeError, InvalidPayload
from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.avro_bounds import Bounds, UnsafeSchema
from segue.topics.codec import AVRO, NULL, JsonCodec, check_size

_HEADER = struct.Struct(">bI")
#: What fastavro raises for bytes or values that do not fit.
_UNFIT = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, ArithmeticError, struct.error)


class NoSubject(ConfigError):
    """There is no schema to write with under this subject."""

    code = "no_subject"


class Schema:
    """A schema that is safe to read with. Raises UnsafeSchema for one that is not."""

    __slots__ = ("_bounds", "_limits", "_named", "_parsed", "id")

    def __init__(self, id: int, document: Any, limits: Limits = DEFAULT_LIMITS) -> None:
        self.id = id
        self._limits = limits
        self._named: dict[str, Any] = {}
        try:
            self._parsed = parse_schema(document, named_schemas=self._named)
        except (SchemaParseException, *_UNFIT, RecursionError) as error:
            raise UnsafeSchema(f"Avro schema {id} is malformed: {error!s:.200}") from None
        self._bounds = Bounds(self._parsed, limits)

    def read(self, datum: bytes) -> bytes:
        """JSON of one datum. Raises DecodeError."""
        self._bounds.check(datum)
        try:
            value = fastavro.schemaless_reader(io.BytesIO(datum), self._parsed, None)
            return _ENCODER.encode(value)
        except (*_UNFIT, RecursionError) as error:
            raise DecodeError(f"not a datum of Avro schema {self.id}: {error!s:.200}") from None

    def write(self, data: bytes) -> bytes:
        """The datum of a JSON value. Raises InvalidPayload."""
        buffer = io.BytesIO()
        try:
            fastavro.schemaless_writer(buffer, self._parsed, self._native(self._parsed, json.loads(data)))
        except (*_UNFIT, RecursionError) as error:
            raise InvalidPayload(f"value does not fit Avro schema {self.id}: {error!s:.200}") from None
        return buffer.getvalue()

    def _native(self, schema: Any, value: Any) -> Any:
        """What fastavro writes for a JSON value: logical types and bytes from their text. Raises ValueError."""
        if isinstance(schema, list):
            return self._branch(schema, value)
        if isinstance(schema, str):
            named = self._named.get(schema)
            return _plain(schema, value) if named is None else self._native(named, value)
        kind, logical = schema["type"], schema.get("logicalType")
        if logical in _LOGICAL:
            return _LOGICAL[logical](value)
        if kind in ("record", "error"):
            return self._record(schema, value)
        if kind == "array":
            return [self._native(schema["items"], item) for item in _expect(list, value)]
        if kind == "map":
            return {name: self._native(schema["values"], item) for name, item in _expect(dict, value).items()}
        if kind == "fixed":
            return _unbase64(value, schema["size"])
        return _symbol(schema, value) if kind == "enum" else self._native(kind, value)

    def _record(self, schema: Mapping[str, Any], value: Any) -> dict[str, Any]:
        found = _expect(dict, value)
        made: dict[str, Any] = {}
        for field in schema["fields"]:
            name = field["name"]
            if name in found:
                try:
                    made[name] = self._native(field["type"], found[name])
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
            elif "default" not in field:
                raise ValueError(f"field {name} is missing")
        return made

    def _branch(self, branches: list[Any], value: Any) -> Any:
        refused = []
        for branch in branches:
            try:
                made = self._native(branch, value)
            except ValueError as error:
                refused.append(str(error))
                continue
            named = self._named.get(branch) if isinstance(branch, str) else branch
            if isinstance(named, dict) and named["type"] == "record":
                return (named["name"], made)  # else fastavro would choose for itself among records
            return made
        raise ValueError(f"no branch of the union fits ({'; '.join(refused):.150})")


class SchemaSource(Protocol):
    """Where schemas come from."""

    def by_id(self, id: int) -> Schema:
        """Raises DecodeError for an unknown id, UnsafeSchema (ConfigError), BrokerUnavailable in an outage."""
        ...

    def latest(self, subject: str) -> Schema:
        """What `subject` is written with. Raises NoSubject where there is none, BrokerUnavailable in an outage."""
        ...


class AvroCodec:
    """Avro data of all schemas of a source; writes with the latest schema of `subject`."""

    content_type = AVRO

    __slots__ = ("_limits", "_source", "_strict", "_subject")

    def __init__(self, source: SchemaSource, subject: str | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._source = source
        self._subject = subject
        self._limits = limits
        self._strict = JsonCodec(limits)

    def for_subject(self, subject: str) -> AvroCodec:
        """The same codec, writing another subject (`payments.charge.input`)."""
        return AvroCodec(self._source, subject, self._limits)

    def within(self, limits: Limits) -> AvroCodec:
        """The same codec with other limits."""
        return AvroCodec(self._source, self._subject, limits)

    def decode(self, data: bytes) -> bytes:
        if not data:
            return NULL
        check_size(data, self._limits)
        if len(data) < _HEADER.size or data[0] != 0:
            raise DecodeError(f"not Avro in the Confluent wire format: begins with {data[:5].hex()}")
        _, id = _HEADER.unpack_from(data)
        try:
            schema = self._source.by_id(id)
        except UnsafeSchema as error:
            # Whoever wrote this uses a schema that can't be read safely: that is this record's fault, not ours.
            raise DecodeError(f"Avro schema {id} can't be used: {error}") from None
        return self._strict.decode(schema.read(data[_HEADER.size :]))

    def encode(self, data: bytes) -> bytes:
        if self._subject is None:
            raise InvalidPayload("Avro can't be written without a subject, which names the schema")
        try:
            schema = self._source.latest(self._subject)
        except (NoSubject, UnsafeSchema) as error:
            # A deploy that is missing, and of this one type: its sagas wait for a person, the others go on.
            raise InvalidPayload(f"there is no schema to write {self._subject} with: {error}") from None
        return _HEADER.pack(0, schema.id) + schema.write(data)


_ENCODER = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical")


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"expected {kind.__name__}, found {value!r:.80}")
    return value


def _symbol(schema: Mapping[str, Any], value: Any) -> Any:
    if value not in schema["symbols"]:
        raise ValueError(f"{value!r:.80} is not one of {', '.join(schema['symbols'])}")
    return value


def _plain(kind: str, value: Any) -> Any:
    if kind == "null":
        if value is not None:
            raise ValueError(f"expected null, found {value!r:.80}")
        return None
    if kind == "bytes":
        return _unbase64(value, None)
    if kind in ("float", "double"):
        return float(value if isinstance(value, float) else _expect(int, value))
    number = _expect(_PLAIN[kind], value)
    if kind == "int" and not -(2**31) <= number < 2**31:
        raise ValueError(f"{number} does not fit 32 bits")
    return number


def _unbase64(value: Any, size: int | None) -> bytes:
    try:
        data = base64.b64decode(_expect(str, value), validate=True)
    except binascii.Error:
        raise ValueError(f"expected base64, found {value!r:.80}") from None
    if size is not None and len(data) != size:
        raise ValueError(f"expected {size} bytes, found {len(data)}")
    return data


def _decimal(value: Any) -> Decimal:
    try:
        return Decimal(_expect(str, value))
    except InvalidOperation:
        raise ValueError(f"expected a decimal as text, found {value!r:.80}") from None


def _aware(value: Any) -> datetime:
    moment = datetime.fromisoformat(_expect(str, value))
    if moment.tzinfo is None:
        raise ValueError(f"timestamp {value!r:.40} has no time zone")
    return moment


_PLAIN: Mapping[str, type] = {"boolean": bool, "int": int, "long": int, "string": str}
_LOGICAL: Mapping[str, Callable[[Any], Any]] = {
    "decimal": _decimal,
    "uuid": lambda value: UUID(_expect(str, value)),
    "date": lambda value: date.fromisoformat(_expect(str, value)),
    "time-millis": lambda value: time.fromisoformat(_expect(str, value)),
    "time-micros": lambda value: time.fromisoformat(_expect(str, value)),
    "timestamp-millis": _aware,
    "timestamp-micros": _aware,
    "local-timestamp-millis": lambda value: datetime.fromisoformat(_expect(str, value)),
    "local-timestamp-micros": lambda value: datetime.fromisoformat(_expect(str, value)),
}
