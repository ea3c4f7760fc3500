"""Arguments that several commands read in the same way."""

from __future__ import annotations

import codecs
import getpass
import os
import pwd
import re
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from segue.coordinator.reads import Reads
from segue.errors import ConfigError, DecodeError, InputError, UsageError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.settings.durations import EXPECTED, parse_duration
from segue.topics.codec import JsonCodec

_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(?:/(s|m|h))?")
_PER = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Longest actor and reason, as the tables hold them.
_LONGEST_ACTOR = 255
_LONGEST_REASON = 1024


def since_option(text: str | None, reads: Reads) -> datetime | None:
    """`2h` before the database's now, or an RFC 3339 time. Raises UsageError."""
    if text is None:
        return None
    try:
        return reads.now() - parse_duration(text)
    except (ValueError, OverflowError):
        pass  # then it is a time
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text!r}: expected {EXPECTED}, or a time like 2026-11-21T09:30:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def rate_option(text: str | None) -> timedelta:
    """The time between two of them: `10/s` is 100 ms; none: no time. Raises UsageError."""
    if text is None:
        return timedelta()
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--rate {text!r}: expected a number per time, like 10/s, 5/m or 100/h")
    return timedelta(seconds=_PER[match[2]] / float(match[1]))


def wait_option(text: str) -> timedelta:
    """A duration. Raises UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--wait-for {text!r}: {error}") from None


def actor_option(actor: str | None) -> str:
    """Who acts: the option, or the user of the operating system. Raises UsageError."""
    if actor is None:
        try:
            actor = getpass.getuser()
        except (KeyError, OSError):
            # A container may run under a number without a name.
            actor = f"uid-{os.getuid()}"
    if not actor.strip() or len(actor) > _LONGEST_ACTOR or "\x00" in actor:
        raise UsageError(f"--actor must be a name of 1 to {_LONGEST_ACTOR} characters")
    return actor


def system_user() -> str:
    """Who runs this process, as the operating system knows it; no variable and no option changes it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return f"{name}@{socket.gethostname()}"[:_LONGEST_ACTOR]


def reason_option(reason: str | None, *, mandatory: bool) -> str:
    """Why. Raises UsageError where a reason is mandatory and missing."""
    text = (reason or "").strip()
    if mandatory and not text:
        raise UsageError("--reason is mandatory here: it is kept in the audit")
    if len(text) > _LONGEST_REASON or "\x00" in text:
        raise UsageError(f"--reason must be a text of at most {_LONGEST_REASON} characters")
    return text


def payload_argument(text: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """A JSON document: itself, `@file`, or `@-` for stdin. Raises InputError saying where it is wrong.

    Only white space is taken out. It is never decoded on the way: a number with many digits would come out as a double.
    """
    data, where = read_argument(text)
    if len(data) > limits.payload_bytes:
        raise InputError(f"{where} has {len(data):,} bytes, allowed are {limits.payload_bytes:,}")
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    try:
        return msgspec.json.format(JsonCodec(limits).decode(data), indent=-1)
    except DecodeError as error:
        raise InputError(f"{where} can't be used: {error}") from None


def read_argument(text: str) -> tuple[bytes, str]:
    """The bytes that an argument names (`@file`, `@-`) or is, and what to call them. Raises ConfigError."""
    if not text.startswith("@"):
        return text.encode(), "the argument"
    if text == "@-":
        return sys.stdin.buffer.read(), "the standard input"
    try:
        return Path(text[1:]).read_bytes().removeprefix(codecs.BOM_UTF8), text[1:]
    except OSError as error:
        raise ConfigError(f"cannot read {text[1:]}: {error.strerror}") from None
