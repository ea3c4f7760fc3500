from __future__ import annotations

import json
import struct
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import BrokerUnavailable, ConfigError, DecodeError, InvalidPayload
from segue.limits import Limits
from segue.topics.avro import AvroCodec, Schema
from segue.topics.avro_bounds import UnsafeSchema
from segue.topics.codec import Codecs, TopicFormat
from segue.topics.schemas import FileSchemas, Registered, RegistrySchemas, schema_id

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}},
        {"name": "again", "type": ["null", "Colour"], "default": None},
        {"name": "tags", "type": {"type": "map", "values": "long"}},
        {"name": "raw", "type": "bytes"},
        {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {
            "name": "payment",
            "type": [
                {"type": "record", "name": "Card", "fields": [{"name": "number", "type": "string"}]},
                {"type": "record", "name": "Bank", "fields": [{"name": "iban", "type": "string"}]},
            ],
        },
        {"name": "lines", "type": {"type": "array", "items": "Card"}},
        {"name": "weight", "type": "double"},
        {"name": "gift", "type": "boolean"},
        {"name": "count", "type": "int"},
    ],
}
VALUE = {
    "id": "00000000-0000-0000-0000-000000000007",
    "total": "120.50",
    "placed": "2026-11-21T10:30:00.000500Z",
    "day": "2026-11-21",
    "at": "10:30:00.000001",
    "local": "2026-11-21T10:30:00",
    "colour": "BLUE",
    "again": "RED",
    "tags": {"a": 1},
    "raw": "AP8=",
    "four": "AAECAw==",
    "payment": {"iban": "DE02"},
    "lines": [{"number": "1"}, {"number": "2"}],
    "weight": 1.5,
    "gift": True,
    "count": -7,
}


@pytest.fixture
def files(tmp_path: Path) -> FileSchemas:
    (tmp_path / "shop.order.input.avsc").write_text(json.dumps(ORDER))
    (tmp_path / "shop.count.avsc").write_text('"int"')
    return FileSchemas(tmp_path, {"shop.count": 42})


def test_a_value_with_every_type_comes_back_as_it_was(files: FileSchemas) -> None:
    codec = AvroCodec(files).for_subject("shop.order.input")
    data = codec.encode(json.dumps(VALUE).encode())
    assert data[:5] == b"\x00" + struct.pack(">I", schema_id(ORDER))
    assert json.loads(codec.decode(data)) == VALUE


def test_the_codec_is_chosen_by_its_content_type(files: FileSchemas) -> None:
    codecs = Codecs(AvroCodec(files, "shop.count"))
    assert codecs.of("application/avro").encode(b"-3") == b"\x00\x00\x00\x00\x2a\x05"
    assert codecs.decode("application/avro", b"\x00\x00\x00\x00\x2a\x05") == b"-3"
    assert codecs.decode("application/avro", b"") == b"null"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": 120.5}, "total: expected str, found 120.5"),
        ({"total": "much"}, "total: expected a decimal as text"),
        ({"total": "0.123"}, "value does not fit"),
        ({"placed": "2026-11-21T10:30:00"}, "has no time zone"),
        ({"colour": "GREEN"}, "'GREEN' is not one of RED, BLUE"),
        ({"raw": "***"}, "raw: expected base64"),
        ({"four": "AA=="}, "expected 4 bytes, found 1"),
        ({"payment": {"cash": 1}}, "no branch of the union fits"),
        ({"count": 2**31}, "32 bits"),
        ({"count": True}, "expected int, found True"),
        ({"lines": {}}, "lines: expected list"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPayload, match=message):
        Schema(1, ORDER).write(json.dumps({**VALUE, **change}).encode())


def test_a_field_without_a_default_must_be_there() -> None:
    schema = Schema(1, ORDER)
    without = {name: value for name, value in VALUE.items() if name != "again"}
    assert json.loads(schema.read(schema.write(json.dumps(without).encode())))["again"] is None
    with pytest.raises(InvalidPayload, match="field count is missing"):
        schema.write(json.dumps({name: value for name, value in VALUE.items() if name != "count"}).encode())


NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


def _deep(levels: int) -> Any:
    schema: Any = "int"
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (NODE, "recursive .Node → Node"),
        (
            {
                "type": "record",
                "name": "A",
                "fields": [
                    {
                        "name": "b",
                        "type": {"type": "record", "name": "B", "fields": [{"name": "a", "type": ["null", "A"]}]},
                    }
                ],
            },
            "A → B → A",
        ),
        ({"type": "array", "items": "null"}, "items that take no bytes"),
        ({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}, "items that take no bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "items that take no bytes"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 100_000}, "precision 100000"),
        (_deep(100), "deeper than 64"),
        ({"type": "no such type"}, "malformed"),
        (7, "malformed"),
    ],
)
def test_a_schema_that_has_no_bounds_is_refused_when_it_is_registered(schema: Any, message: str) -> None:
    with pytest.raises(UnsafeSchema, match=message):
        Schema(1, schema)


def _long(number: int) -> bytes:
    value, out = (number << 1) ^ (number >> 63), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


INTS = {"type": "array", "items": "int"}


@pytest.mark.parametrize(
    ("schema", "datum", "message"),
    [
        (INTS, _long(50_000_000), "claims 50000000 items"),
        (INTS, _long(-50_000_000) + _long(5), "claims a block of 5 bytes"),
        (INTS, _long(-(2**63)) + _long(0), "items where"),
        ({"type": "map", "values": "null"}, _long(50_000_000), "claims 50000000 items"),
        (INTS, _long(100_001) + b"\x00" * 100_002, "more items than are allowed"),
        ("string", _long(2**40) + b"x", "claims 1099511627776 bytes where 1 are left"),
        ("bytes", _long(-1), "claims -1 bytes"),
        ("long", b"\xff" * 100_000, "does not fit 64 bits"),
        ("long", b"\xff" * 9 + b"\x7f", "does not fit 64 bits"),
        ("long", b"\x80", "cut off"),
        ("int", _long(2**31), "does not fit 32 bits"),
        ("int", b"\x02\x00", "followed by 1 bytes"),
        ("string", _long(2) + b"\xff\xfe", "not a datum"),
        ("double", struct.pack("<d", float("nan")), "NaN"),
        ("float", struct.pack("<f", float("inf")), "infinity"),
        ("double", b"\x00", "claims 8 bytes where 1 are left"),
        ("boolean", b"\x02", "neither 0 nor 1"),
        ("boolean", b"", "neither 0 nor 1"),
        (["null", "int"], _long(2), "branch 2 of a union of 2"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, _long(-1), "symbol -1 of an enum of 1"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 10},
            _long(100_000) + b"\x01" * 100_000,
            "decimal of 100000 bytes",
        ),
        ({"type": "long", "logicalType": "timestamp-micros"}, _long(2**62), "not a datum"),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(schema: Any, datum: bytes, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(DecodeError, match=message):
        Schema(1, schema).read(datum)
    assert time.monotonic() - began < 2


def test_nul_in_a_string_is_refused_as_in_json(files: FileSchemas, tmp_path: Path) -> None:
    (tmp_path / "text.avsc").write_text('"string"')
    codec = AvroCodec(FileSchemas(tmp_path, {"text": 9}))
    with pytest.raises(DecodeError, match="NUL"):
        codec.decode(b"\x00\x00\x00\x00\x09\x02\x00")


@given(st.binary(max_size=80))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(datum: bytes) -> None:
    try:
        json.loads(SCHEMA.read(datum))
    except DecodeError:
        pass


SCHEMA = Schema(1, ORDER)


@pytest.mark.parametrize("data", [b"{}", b"\x01\x00\x00\x00\x2a\x05", b"\x00\x00"])
def test_what_is_not_framed_is_refused(files: FileSchemas, data: bytes) -> None:
    with pytest.raises(DecodeError, match="not Avro in the Confluent wire format"):
        AvroCodec(files).decode(data)


def test_unknown_ids_subjects_and_folders_are_told_apart(files: FileSchemas, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="Avro schema 7 is not among the 2 schema files"):
        AvroCodec(files).decode(b"\x00\x00\x00\x00\x07\x05")
    with pytest.raises(InvalidPayload, match=r"no schema file nobody\.avsc"):
        AvroCodec(files, "nobody").encode(b"1")
    with pytest.raises(InvalidPayload, match="without a subject"):
        AvroCodec(files).encode(b"1")
    with pytest.raises(ConfigError, match=r"no \.avsc file"):
        FileSchemas(tmp_path / "empty")


class Tick:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        raise AssertionError("the registry's cache needs no wall clock")

    def monotonic(self) -> float:
        return self.time


class Registry:
    """Answers, and the paths that were asked for."""

    address = "http://registry:8081"

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.answers: dict[object, Registered | Exception] = {}
        self.clock = Tick()
        self.schemas = RegistrySchemas(self, clock=self.clock)

    def by_id(self, id: int) -> Registered | None:
        return self._answer(id)

    def latest(self, subject: str) -> Registered | None:
        return self._answer(subject)

    def put(self, asked: object, id: int, text: str | None = None, kind: str = "AVRO", refers: bool = False) -> None:
        self.answers[asked] = Registered(id=id, kind=kind, text=text, refers=refers)

    def _answer(self, asked: object) -> Registered | None:
        self.asked.append(asked)
        answer = self.answers.get(asked)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_schema_of_the_registry_is_asked_for_once_by_its_id() -> None:
    registry = Registry()
    registry.put(5, 5, '"int"')
    for _ in range(3):
        assert AvroCodec(registry.schemas).decode(b"\x00\x00\x00\x00\x05\x05") == b"-3"
    assert registry.asked == [5]


def test_an_unknown_id_is_remembered_for_a_while() -> None:
    registry = Registry()
    for moment in (0.0, 29.0, 31.0):
        registry.clock.time = moment
        with pytest.raises(DecodeError, match="Avro schema 5 is unknown to the registry at http://registry:8081"):
            registry.schemas.by_id(5)
    assert len(registry.asked) == 2


def test_an_outage_of_the_registry_is_transient_and_no_poison() -> None:
    registry = Registry()
    registry.answers[5] = BrokerUnavailable("the schema registry at http://registry:8081 does not answer")
    with pytest.raises(BrokerUnavailable, match="registry"):
        AvroCodec(registry.schemas).decode(b"\x00\x00\x00\x00\x05\x05")
    registry.put(5, 5, '"int"')
    assert AvroCodec(registry.schemas).decode(b"\x00\x00\x00\x00\x05\x05") == b"-3"


@pytest.mark.parametrize(
    "fields",
    [
        {"text": json.dumps(NODE)},
        {"text": "{"},
        {"text": '"int"', "kind": "PROTOBUF"},
        {"text": '"int"', "refers": True},
        {},
    ],
)
def test_a_record_of_an_unsafe_schema_is_poison_and_the_schema_is_not_asked_for_again(fields: dict[str, Any]) -> None:
    registry = Registry()
    registry.put(5, 5, **fields)
    for _ in range(2):
        with pytest.raises(DecodeError, match="Avro schema 5 can't be used"):
            AvroCodec(registry.schemas).decode(b"\x00\x00\x00\x00\x05\x05")
    assert len(registry.asked) == 1


def test_writing_uses_the_latest_schema_and_survives_an_outage_of_the_registry() -> None:
    registry = Registry()
    registry.put("a/b", 5, '"int"')
    codec = AvroCodec(registry.schemas, "a/b")
    assert codec.encode(b"1") == b"\x00\x00\x00\x00\x05\x02"
    registry.put("a/b", 6, '"long"')
    assert codec.encode(b"1")[4] == 5
    registry.clock.time = 301.0
    assert codec.encode(b"1")[4] == 6
    registry.clock.time = 700.0
    registry.answers["a/b"] = BrokerUnavailable("down")
    assert codec.encode(b"1")[4] == 6
    with pytest.raises(InvalidPayload, match=r"no schema to write other with: .* has no subject 'other'"):
        codec.for_subject("other").encode(b"1")


def test_a_datum_above_the_limit_is_refused(files: FileSchemas) -> None:
    with pytest.raises(DecodeError, match="21 bytes, allowed are 20"):
        AvroCodec(files, limits=Limits(payload_bytes=20)).decode(b"\x00" * 21)


def test_what_begins_with_a_zero_byte_and_has_no_content_type_is_avro(files: FileSchemas) -> None:
    codecs = Codecs(AvroCodec(files))
    datum = b"\x00\x00\x00\x00\x2a\x05"
    assert codecs.decode("application/json", datum) == b"-3"
    assert codecs.decode("application/vnd.confluent.avro", datum) == b"-3"
    assert codecs.decode("application/octet-stream", datum) == b'"AAAAACoF"'
    with pytest.raises(DecodeError, match="not JSON"):
        Codecs().decode("application/json", datum)


def test_a_topic_may_have_a_registry_of_its_own() -> None:
    own, other = Registry(), Registry()
    own.put(5, 5, '"int"')
    other.put(5, 5, '"string"')
    codecs = Codecs(AvroCodec(own.schemas), readers={"theirs": AvroCodec(other.schemas)})
    assert codecs.decode("application/json", b"\x00\x00\x00\x00\x05\x05", "ours") == b"-3"
    assert codecs.decode("application/avro", b"\x00\x00\x00\x00\x05\x02x", "theirs") == b'"x"'


def test_a_topic_is_written_in_its_format_under_the_subject_of_its_type() -> None:
    registry = Registry()
    registry.put("pay.commands-pay.charge", 5, '"int"')
    codecs = Codecs(formats={"pay.commands": TopicFormat(codec=AvroCodec(registry.schemas), subject="{topic}-{type}")})
    assert codecs.encode("pay.commands", "pay.charge", b"1") == ("application/avro", b"\x00\x00\x00\x00\x05\x02")
    assert codecs.encode("pay.commands", "pay.charge", b"null") == ("application/avro", None)
    assert codecs.encode("elsewhere", "pay.charge", b"1") == ("application/json", b"1")
    with pytest.raises(InvalidPayload, match=r"does not fit Avro schema 5"):
        codecs.encode("pay.commands", "pay.charge", b'"x"')
    with pytest.raises(InvalidPayload, match=r"no schema to write pay.commands-pay.refund with"):
        codecs.encode("pay.commands", "pay.refund", b"1")
