"""Copies of recorded messages: byte for byte, or damaged so that nobody may act on them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from random import Random

from segue.topics.broker import Headers, Outgoing, Record
from segue.topics.deadletter import PREFIXES

#: Nested deeper than any decoder of ours follows.
_BOMB = b"[" * 100_000
#: How ids begin that nobody but us has given: an answer to such a command is as good as damaged.
FORGED = b"forged-"

Damage = Callable[[Record, Random], Outgoing]


def again(record: Record) -> Outgoing:
    """A duplicate, as a retried produce or a re-read partition makes it."""
    return _copy(record, record.value, record.headers)


def digest(key: bytes | None, value: bytes | None, headers: Headers) -> str:
    """Names a record by its content, whichever dead letter table or topic it is found in."""
    kept = [[name, _text(raw)] for name, raw in headers if not name.startswith(PREFIXES)]
    return hashlib.sha256(json.dumps([_text(key), _text(value), kept]).encode()).hexdigest()


def damaged(record: Record, random: Random) -> tuple[str, Outgoing]:
    """A damaged copy with the key, and so the partition, of the original; and what was done to it."""
    name = random.choice(sorted(DAMAGES))
    return name, DAMAGES[name](record, random)


def _truncated(record: Record, random: Random) -> Outgoing:
    value = record.value or b""
    return _copy(record, value[: random.randrange(len(value))] if value else b"{", record.headers)


def _flipped(record: Record, random: Random) -> Outgoing:
    """The highest bit of a byte of JSON: no text is left that could be read as another one."""
    value = bytearray(record.value or b"null")
    value[random.randrange(len(value))] ^= 0x80
    return _copy(record, bytes(value), record.headers)


def _bomb(record: Record, random: Random) -> Outgoing:
    return _copy(record, _BOMB, record.headers)


def _headless(record: Record, random: Random) -> Outgoing:
    return _copy(record, record.value, ())


def _binary_header(record: Record, random: Random) -> Outgoing:
    return _copy(record, record.value, _replaced(record.headers, random.choice(_SEGUES), b"\xff\xfe\x00"))


def _doubled_header(record: Record, random: Random) -> Outgoing:
    return _copy(record, record.value, (*record.headers, ("ce_id", FORGED + b"1"), ("ce_id", FORGED + b"2")))


def _foreign_cause(record: Record, random: Random) -> Outgoing:
    """Answers a command that nobody ever sent, or is one."""
    nobody = FORGED + str(random.getrandbits(64)).encode()
    headers = _replaced(_replaced(record.headers, "ce_causationid", nobody), "ce_id", nobody)
    return _copy(record, record.value, headers)


def _unknown_type(record: Record, random: Random) -> Outgoing:
    return _copy(record, record.value, _replaced(record.headers, "ce_type", b"com.example.forged"))


#: Those that decide what a message is.
_SEGUES = ("ce_id", "ce_type", "ce_specversion")
DAMAGES: dict[str, Damage] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "bomb": _bomb,
    "headless": _headless,
    "binary header": _binary_header,
    "doubled header": _doubled_header,
    "foreign cause": _foreign_cause,
    "unknown type": _unknown_type,
}


def _copy(record: Record, value: bytes | None, headers: Headers) -> Outgoing:
    return Outgoing(topic=record.topic, key=record.key, value=value, headers=headers)


def _replaced(headers: Headers, name: str, value: bytes) -> Headers:
    return (*(pair for pair in headers if pair[0] != name), (name, value))


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
