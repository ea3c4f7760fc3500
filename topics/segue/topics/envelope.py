"""The envelope: CloudEvents 1.0, Kafka binary content mode, with the saga extension (wire protocol, version 1).

All headers are UTF-8 text and single-valued. Parsing never trusts: what is missing or has no meaning raises
EnvelopeError, and the caller makes a dead letter of the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Literal, cast

import msgspec

from segue.errors import EnvelopeError, InvalidId
from segue.ids import saga_id_of_start
from segue.limits import DEFAULT_LIMITS, Limits, check_id
from segue.topics.broker import Headers, Record

Action = Literal["invoke", "compensate"]
Outcome = Literal["success", "failure", "retry", "pending"]
Effect = Literal["none", "unknown"]
RequestAction = Literal["start", "signal", "cancel"]

ACTIONS: frozenset[str] = frozenset(("invoke", "compensate"))
OUTCOMES: frozenset[str] = frozenset(("success", "failure", "retry", "pending"))
REQUEST_ACTIONS: frozenset[str] = frozenset(("start", "signal", "cancel"))
#: Headers that are handed on from the message that caused another one.
PASSED_ON = ("traceparent", "tracestate", "baggage")
JSON = "application/json"
#: Headers of a command that must be there, in the order in which `parse_command` unpacks them.
_OF_COMMANDS = (
    "ce_id",
    "ce_type",
    "ce_sagaid",
    "ce_sagatype",
    "ce_sagastep",
    "ce_sagaaction",
    "ce_sagaattempt",
    "ce_sagakey",
    "ce_sagareplyto",
)
_ALL_OF_COMMANDS = itemgetter(*_OF_COMMANDS)
#: Longest value of a header that must be there, in characters.
_LONGEST = 600
#: Most bytes of UTF-8 that a character takes.
_WIDEST = 4


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A command as a participant sees it; `key` is its fence key, `id` the only thing a reply must echo."""

    id: str
    activity: str
    saga_id: str
    saga_type: str
    step: str
    action: Action
    attempt: int
    key: str
    reply_to: str
    source: str
    causation_id: str = ""
    subject: str | None = None
    deadline: datetime | None = None
    time: datetime | None = None
    content_type: str = JSON
    passed_on: tuple[tuple[str, str], ...] = ()

    def headers(self) -> Headers:
        """As they travel; the inverse of `parse_command`."""
        pairs = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.activity),
            ("ce_correlationid", self.saga_id),
            ("ce_causationid", self.causation_id or self.saga_id),
            ("ce_sagaid", self.saga_id),
            ("ce_sagatype", self.saga_type),
            ("ce_sagastep", self.step),
            ("ce_sagaaction", self.action),
            ("ce_sagaattempt", str(self.attempt)),
            ("ce_sagakey", self.key),
            ("ce_sagareplyto", self.reply_to),
            ("content-type", self.content_type),
            *self.passed_on,
        ]
        if self.time is not None:
            pairs.append(("ce_time", rfc3339(self.time)))
        if self.subject is not None:
            pairs.append(("ce_subject", self.subject))
        if self.deadline is not None:
            pairs.append(("ce_sagadeadline", rfc3339(self.deadline)))
        return encode_headers(pairs)


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A reply as the coordinator sees it; everything but `command_id` is advisory or has a default."""

    id: str
    command_id: str
    outcome: Outcome = "success"
    saga_id: str | None = None
    error: str | None = None
    effect: Effect = "none"
    retry_after: float | None = None
    source: str = ""
    type: str = ""
    saga_type: str | None = None
    step: str | None = None
    action: str | None = None
    attempt: str | None = None
    subject: str | None = None
    time: datetime | None = None
    content_type: str = JSON
    passed_on: tuple[tuple[str, str], ...] = ()

    def headers(self) -> Headers:
        """As they travel; the inverse of `parse_reply`."""
        pairs: list[tuple[str, str | None]] = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.type),
            ("ce_time", rfc3339(self.time) if self.time else None),
            ("ce_subject", self.subject),
            ("ce_correlationid", self.saga_id),
            ("ce_causationid", self.command_id),
            ("ce_sagaid", self.saga_id),
            ("ce_sagatype", self.saga_type),
            ("ce_sagastep", self.step),
            ("ce_sagaaction", self.action),
            ("ce_sagaattempt", self.attempt),
            ("ce_sagaoutcome", self.outcome),
            ("ce_sagaerror", self.error),
            ("ce_sagaeffect", "unknown" if self.effect == "unknown" else None),
            ("ce_sagaretryafter", None if self.retry_after is None else f"{self.retry_after:g}"),
            ("content-type", self.content_type),
            *self.passed_on,
        ]
        return encode_headers((name, value) for name, value in pairs if value is not None)


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A start, signal or cancel on `{coordinator}.requests`.

    `name` is the saga type, the signal's name or the compensation mode.
    """

    id: str
    action: RequestAction
    saga_id: str
    name: str
    source: str = ""
    time: datetime | None = None
    reason: str | None = None
    content_type: str = JSON
    passed_on: tuple[tuple[str, str], ...] = ()

    def headers(self) -> Headers:
        """As they travel; the inverse of `parse_request`."""
        pairs: list[tuple[str, str | None]] = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.name),
            ("ce_time", rfc3339(self.time) if self.time else None),
            ("ce_correlationid", self.saga_id),
            ("ce_sagaid", self.saga_id),
            ("ce_sagaaction", self.action),
            ("ce_sagareason", self.reason),
            ("content-type", self.content_type),
            *self.passed_on,
        ]
        return encode_headers((name, value) for name, value in pairs if value is not None)


def encode_headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Text headers as the bytes that travel."""
    return tuple((name, value.encode()) for name, value in pairs)


def text_headers(record: Record, limits: Limits = DEFAULT_LIMITS) -> dict[str, str]:
    """The record's headers as text: the last of a repeated name wins, other people's binary headers are left out.

    Raises EnvelopeError where there are too many of them.
    """
    pairs = record.headers
    if len(pairs) > limits.header_count:
        raise EnvelopeError(f"{len(pairs)} headers, allowed are {limits.header_count}")
    try:
        found = {name: value.decode() for name, value in pairs}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        return _careful_headers(pairs, limits)
    size = sum(map(len, found)) + sum(map(len, found.values()))
    if len(found) < len(pairs) or size * _WIDEST > limits.header_bytes:
        return _careful_headers(pairs, limits)
    return found


def _careful_headers(pairs: Headers, limits: Limits) -> dict[str, str]:
    """The same, one by one: for what is repeated, binary, missing or long."""
    size = 0
    found: dict[str, str] = {}
    for name, value in pairs:
        size += len(name) + len(value or b"")
        if value is not None:
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                if name.startswith("ce_"):
                    raise EnvelopeError(f"header {name} is not UTF-8 text") from None
    if size > limits.header_bytes:
        raise EnvelopeError(f"{size} bytes of headers, allowed are {limits.header_bytes}")
    return found


def parse_command(record: Record, limits: Limits = DEFAULT_LIMITS) -> Command:
    """The command that `record` carries. Raises EnvelopeError naming the header that is missing or wrong."""
    headers = text_headers(record, limits)
    id, activity, saga_id, saga_type, step, action, attempt, key, reply_to = _mandatory(headers)
    if action not in ACTIONS:
        raise EnvelopeError(f"header ce_sagaaction is {action!r:.40}, allowed are invoke and compensate")
    if not attempt.isascii() or not attempt.isdigit() or len(attempt) > 9 or int(attempt) < 1:
        raise EnvelopeError(f"header ce_sagaattempt is {attempt!r:.40}, expected a number from 1")
    return Command(
        id=id,
        activity=activity,
        saga_id=saga_id,
        saga_type=saga_type,
        step=step,
        action=cast("Action", action),
        attempt=int(attempt),
        key=key,
        reply_to=reply_to,
        source=headers.get("ce_source", ""),
        causation_id=headers.get("ce_causationid", ""),
        subject=headers.get("ce_subject"),
        deadline=_moment(headers, "ce_sagadeadline"),
        time=_moment(headers, "ce_time"),
        content_type=headers.get("content-type", JSON),
        passed_on=_passed_on(headers),
    )


def _mandatory(headers: Mapping[str, str]) -> tuple[str, ...]:
    """All at once, as nothing is wrong with nearly every command; one by one to say what is."""
    try:
        values: tuple[str, ...] = _ALL_OF_COMMANDS(headers)
    except KeyError:
        pass
    else:
        if all(values) and max(map(len, values)) <= _LONGEST and "\x00" not in "".join(values):
            return values
    return tuple(_required(headers, name) for name in _OF_COMMANDS)


def parse_reply(record: Record, limits: Limits = DEFAULT_LIMITS) -> Reply:
    """The reply that `record` carries.

    Only `ce_causationid` is mandatory; without `ce_sagaid` the key is the saga's id.
    """
    headers = text_headers(record, limits)
    command_id = _required(headers, "ce_causationid")
    outcome = headers.get("ce_sagaoutcome", "success")
    if outcome not in OUTCOMES:
        raise EnvelopeError(f"header ce_sagaoutcome is {outcome!r:.40}, allowed are success, failure, retry, pending")
    effect = headers.get("ce_sagaeffect", "none")
    if effect not in ("none", "unknown"):
        raise EnvelopeError(f"header ce_sagaeffect is {effect!r:.40}, allowed are none and unknown")
    return Reply(
        id=headers.get("ce_id") or f"{record.topic}:{record.partition}:{record.offset}",
        command_id=command_id,
        outcome=cast("Outcome", outcome),
        saga_id=headers.get("ce_sagaid") or _key_text(record),
        error=headers.get("ce_sagaerror"),
        effect=cast("Effect", effect),
        retry_after=_seconds(headers, "ce_sagaretryafter"),
        source=headers.get("ce_source", ""),
        type=headers.get("ce_type", ""),
        saga_type=headers.get("ce_sagatype"),
        step=headers.get("ce_sagastep"),
        action=headers.get("ce_sagaaction"),
        attempt=headers.get("ce_sagaattempt"),
        subject=headers.get("ce_subject"),
        time=_moment(headers, "ce_time"),
        content_type=headers.get("content-type", JSON),
        passed_on=_passed_on(headers),
    )


def parse_request(record: Record, limits: Limits = DEFAULT_LIMITS) -> Request:
    """The start, signal or cancel that `record` carries.

    A start without `ce_sagaid` or key is named after its `ce_id`.
    """
    headers = text_headers(record, limits)
    action = _required(headers, "ce_sagaaction")
    if action not in REQUEST_ACTIONS:
        raise EnvelopeError(f"header ce_sagaaction is {action!r:.40}, allowed are start, signal and cancel")
    message_id = _required(headers, "ce_id")
    saga_id = headers.get("ce_sagaid") or _key_text(record)
    if not saga_id:
        if action != "start":
            raise EnvelopeError(f"a {action} needs the header ce_sagaid or a key")
        saga_id = saga_id_of_start(message_id)
    try:
        check_id("saga id", saga_id)
    except InvalidId as error:
        raise EnvelopeError(str(error)) from None
    return Request(
        id=message_id,
        action=cast("RequestAction", action),
        saga_id=saga_id,
        name=_required(headers, "ce_type"),
        source=headers.get("ce_source", ""),
        time=_moment(headers, "ce_time"),
        reason=headers.get("ce_sagareason"),
        content_type=headers.get("content-type", JSON),
        passed_on=_passed_on(headers),
    )


@lru_cache(maxsize=1024)
def rfc3339(moment: datetime) -> str:
    """`2026-11-21T11:33:57.123456Z`."""
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat().replace("+00:00", "Z")


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise EnvelopeError(f"header {name} is missing")
    if len(value) > _LONGEST or "\x00" in value:
        raise EnvelopeError(f"header {name} is longer than {_LONGEST} characters or contains NUL")
    return value


def _key_text(record: Record) -> str | None:
    try:
        return record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None


def _moment(headers: Mapping[str, str], name: str) -> datetime | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise EnvelopeError(f"header {name} is {value!r:.40}, expected an RFC 3339 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400 * 366:
        raise EnvelopeError(f"header {name} is {value!r:.40}, expected seconds from 0 to a year")
    return seconds


def _passed_on(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if headers.keys().isdisjoint(PASSED_ON):
        return ()
    return tuple((name, headers[name]) for name in PASSED_ON if name in headers)
