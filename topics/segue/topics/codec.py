"""Payload codecs: between the bytes that travel and the JSON that Segue keeps, chosen by content type.

Inside Segue every payload is UTF-8 JSON that any reader reads alike, and that PostgreSQL, SQLite and Python can all
store and read back. Whatever would not be is refused here, before it is decoded where that is what it takes.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn, Protocol, runtime_checkable

import msgspec

from segue.errors import DecodeError, InvalidPayload
from segue.limits import DEFAULT_LIMITS, Limits

NULL = b"null"
AVRO = "application/avro"
INT64 = (-(2**63), 2**63 - 1)

#: Every digit becomes a zero, everything else a space.
_DIGITS = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_NUMBER = b"0" * 19
#: Strings (to skip) and brackets. A string without an end takes all the rest, so that the scan stays linear.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|([\[{])|([\]}])', re.DOTALL)


class Codec(Protocol):
    """One wire format."""

    @property
    def content_type(self) -> str:
        """The media type it is chosen by and writes."""
        ...

    def decode(self, data: bytes) -> bytes:
        """JSON of what arrived. Raises DecodeError; Unavailable where what it needs to decode is out of reach."""
        ...

    def encode(self, data: bytes) -> bytes:
        """What is to travel, of JSON. Raises InvalidPayload where this format can't express it."""
        ...


class JsonCodec:
    """JSON, strictly (RFC 8259 with the advice of RFC 7493): what is valid passes as the same bytes.

    Refused: NaN and infinities, numbers that overflow, integers outside 64 bits, duplicate keys, lone surrogates, NUL,
    anything but UTF-8, and what exceeds the limits of size, depth and number of keys.
    """

    content_type = "application/json"

    __slots__ = ("_limits", "_thorough")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._thorough = json.JSONDecoder(
            object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_int64, parse_float=_finite
        )

    def decode(self, data: bytes) -> bytes:
        if not data:
            return NULL
        self._check_bounds(data)
        if b"\\" in data or has_long_number(data) or not _has_no_duplicates(data):
            self._check(data)
        return data

    def encode(self, data: bytes) -> bytes:
        return data

    def _check(self, data: bytes) -> None:
        try:
            text = data.decode()
            value = self._thorough.decode(text)
        except UnicodeDecodeError as error:
            raise DecodeError(f"not JSON: byte {error.start} is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"not JSON: {error!s:.200}") from None
        if b"\\u" in data:
            _check_text(value)

    def _check_bounds(self, data: bytes) -> None:
        limits = self._limits
        check_size(data, limits)
        # Counting what may be brackets and keys is cheap, and nearly always enough.
        if data.count(b"[") + data.count(b"{") > limits.depth:
            depth = _depth(data, limits.depth)
            if depth > limits.depth:
                raise DecodeError(f"JSON is nested deeper than {limits.depth} levels")
        if data.count(b":") > limits.json_keys:
            keys = sum(1 for _ in re.finditer(rb'"\s*:', data))
            if keys > limits.json_keys:
                raise DecodeError(f"JSON has {keys} keys, allowed are {limits.json_keys}")


class RawCodec:
    """Bytes that Segue does not look into, kept as base64 in a JSON string."""

    __slots__ = ("_content_type", "_limits")

    def __init__(self, content_type: str = "application/octet-stream", limits: Limits = DEFAULT_LIMITS) -> None:
        self._content_type = content_type
        self._limits = limits

    @property
    def content_type(self) -> str:
        return self._content_type

    def decode(self, data: bytes) -> bytes:
        check_size(data, self._limits)
        return b'"' + base64.b64encode(data) + b'"' if data else NULL

    def encode(self, data: bytes) -> bytes:
        if data == NULL:
            return b""
        try:
            text = json.loads(data)
            if isinstance(text, str):
                return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            pass
        raise InvalidPayload(f"{self._content_type} needs a JSON string of base64, found {data[:60]!r}")


@runtime_checkable
class Bounded(Protocol):
    """A codec that has limits of its own."""

    def within(self, limits: Limits) -> Codec:
        """The same codec with other limits."""
        ...


class Subjects(Protocol):
    """A codec that writes under a subject, which names the schema."""

    def for_subject(self, subject: str) -> Codec:
        """The same codec, writing this subject."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFormat:
    """How what we send to one topic is written: `subject` is a template with `{topic}` and `{type}`."""

    codec: Subjects
    subject: str


class Codecs:
    """Picks the codec by content type: `Codecs()` knows JSON, Protobuf and raw bytes, others are added.

    A later codec replaces an earlier one of the same type; `*/*+json` is JSON. What begins with a zero byte is no JSON:
    without another content type it is in the Confluent wire format, if there is a codec for that. `readers` are codecs
    of single topics for it, `formats` say on which topics we write something else than JSON.
    """

    def __init__(
        self,
        *codecs: Codec,
        limits: Limits = DEFAULT_LIMITS,
        readers: Mapping[str, Codec] = MappingProxyType({}),
        formats: Mapping[str, TopicFormat] = MappingProxyType({}),
    ) -> None:
        raw = ("application/octet-stream", "application/protobuf", "application/x-protobuf")
        known: list[Codec] = [JsonCodec(limits), *(RawCodec(name, limits) for name in raw), *codecs]
        self._added = codecs
        self._limits = limits
        self._by_type = {codec.content_type: codec for codec in known}
        self._readers = dict(readers)
        self._formats = dict(formats)
        self._writers: dict[tuple[str, str], Codec] = {}

    def composed(self) -> Codecs:
        """The same for messages that are composed of two payloads, each of which these would take."""
        limits = self._limits.composed
        added = (codec.within(limits) if isinstance(codec, Bounded) else codec for codec in self._added)
        readers = {
            topic: codec.within(limits) if isinstance(codec, Bounded) else codec
            for topic, codec in self._readers.items()
        }
        return Codecs(*added, limits=limits, readers=readers, formats=self._formats)

    def of(self, content_type: str, topic: str = "") -> Codec:
        """The codec for this content type; without one it is JSON. Raises DecodeError naming what is supported."""
        if topic in self._readers and _is_avro(content_type):
            return self._readers[topic]
        codec = self._by_type.get(content_type)
        return codec if codec is not None else self._find(content_type)

    def decode(self, content_type: str, data: bytes | None, topic: str = "") -> bytes:
        """JSON of a record's value; a missing or empty value is null. Raises DecodeError."""
        if not data:
            return NULL
        if data[0] == 0 and content_type == JsonCodec.content_type and self._reads_avro(topic):
            content_type = AVRO
        return self.of(content_type, topic).decode(data)

    def _reads_avro(self, topic: str) -> bool:
        return AVRO in self._by_type or topic in self._readers

    def encode(self, topic: str, type: str, data: bytes) -> tuple[str, bytes | None]:
        """Content type and value of a message of this type to this topic, of JSON. A null of Avro is no value at all.

        Raises InvalidPayload where the topic's format can't express it or no schema is known for it, Unavailable
        while the registry can't be asked.
        """
        format = self._formats.get(topic)
        if format is None:
            return JsonCodec.content_type, data
        writer = self._writers.get((topic, type))
        if writer is None:
            subject = format.subject.replace("{topic}", topic).replace("{type}", type)
            writer = self._writers[topic, type] = format.codec.for_subject(subject)
        return writer.content_type, None if data == NULL else writer.encode(data)

    def _find(self, content_type: str) -> Codec:
        essence, _, parameters = content_type.partition(";")
        essence = essence.strip().lower()
        charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
        if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
            raise DecodeError(f"content type {content_type!r:.120} is not UTF-8")
        codec = self._by_type.get(essence or JsonCodec.content_type)
        if codec is None and _is_avro(essence):
            codec = self._by_type.get(AVRO)
        # application/cloudevents+json is the structured mode: its payload is not the value.
        if codec is None and essence.endswith("+json") and not essence.startswith("application/cloudevents"):
            codec = self._by_type[JsonCodec.content_type]
        if codec is None:
            supported = ", ".join(sorted(self._by_type))
            raise DecodeError(f"content type {content_type!r:.120} is not supported; supported are {supported}")
        return codec


def _is_avro(content_type: str) -> bool:
    """The names under which Avro travels; nobody has registered one."""
    return content_type in (AVRO, "application/vnd.confluent.avro", "avro/binary") or content_type.endswith("+avro")


def check_size(data: bytes, limits: Limits) -> None:
    """Raise DecodeError for a payload above the limit."""
    if len(data) > limits.payload_bytes:
        raise DecodeError(f"payload has {len(data)} bytes, allowed are {limits.payload_bytes}")


def has_long_number(data: bytes) -> bool:
    """Whether there may be an integer outside 64 bits: 19 digits in a row."""
    # As a regular expression it takes seven times as long, and was a tenth of a transition.
    return _LONG_NUMBER in data.translate(_DIGITS)


def _depth(data: bytes, enough: int) -> int:
    """How deep brackets are nested, outside strings; stops counting above `enough`."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(data):
        if match[1]:
            depth += 1
            if depth > deepest:
                deepest = depth
                if deepest > enough:
                    break
        elif match[2]:
            depth -= 1
    return deepest


def _has_no_duplicates(data: bytes) -> bool:
    """True for JSON without duplicate keys; False may mean anything. For text without escapes and long numbers only.

    The quick way for nearly every payload. Reading drops the earlier of two equal keys, and its colon is then missing
    in what is written again; nothing can add a colon, as there are no escapes. Numbers that overflow are refused here.
    """
    try:
        if not data.isascii():
            data.decode()
        return msgspec.json.encode(msgspec.json.decode(data)).count(b":") == data.count(b":")
    except (ValueError, RecursionError):
        return False  # the careful reader says what is wrong


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a key occurs twice in one object, found {twice!r:.80}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _int64(text: str) -> int:
    # The length first: Python's own conversion is quadratic.
    if len(text) <= 20:
        number = int(text)
        if INT64[0] <= number <= INT64[1]:
            return number
    raise ValueError(f"an integer does not fit 64 bits (send it as a string), found {text:.40}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"a number is too large (send it as a string), found {text:.40}")
    return number


def _check_text(value: Any) -> None:
    """Escapes may hide what is no text: NUL, which PostgreSQL refuses, and halves of surrogate pairs."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item:
                raise DecodeError("JSON contains a NUL character (\\u0000)")
            if not _encodable(item):
                raise DecodeError("JSON contains a lone surrogate (\\ud800 to \\udfff without its partner)")
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
