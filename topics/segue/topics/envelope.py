"""The envelope: CloudEvents 1.0, Kafka binary content mode, with the saga extension (wire protocol, version 1).

All headers are UTF-8 text and single-valued. Parsing never trusts: what decides and is missing or has no meaning raises
EnvelopeError, and the caller makes a dead letter of the record. What only advises (a time, a subject, a trace) counts
as absent where it is odd, and other people's headers are not looked at, however many or long they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from operator import itemgetter
from typing import Literal, cast

import msgspec

from segue.errors import EnvelopeError, InvalidId
from segue.ids import saga_id_of_start
from segue.limits import MAX_KEY_LENGTH, check_id
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
#: Marks a `retry` that says nothing about the business; only the SDK sets it.
MISMATCH = "ce_sagamismatch"
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
#: Longest value of a header that is looked at, in characters.
_LONGEST = MAX_KEY_LENGTH
#: Longest value of a header that is handed on, in bytes: the W3C's bound, and the columns of the outbox.
_LONGEST_PASSED_ON = {"traceparent": 255, "tracestate": 600, "baggage": 8192}
#: Headers that have a meaning here; all others are somebody else's.
_OURS = frozenset(
    (
        *_OF_COMMANDS,
        *PASSED_ON,
        "ce_source",
        "ce_time",
        "ce_subject",
        "ce_causationid",
        "ce_sagadeadline",
        "ce_sagaheartbeat",
        "ce_sagarejected",
        "ce_sagaoutcome",
        "ce_sagaerror",
        "ce_sagaeffect",
        "ce_sagaretryafter",
        "ce_sagareason",
        "ce_sagadone",
        MISMATCH,
        "content-type",
    )
)
#: Characters that stand for themselves in RFC 3339, and are written small by some.
_SMALL = str.maketrans("tz", "TZ")
#: A leap second, which Python's clock does not have.
_LEAP = re.compile(r"(?<=:\d\d):60(?=[.Zz+-]|$)")
#: Stands for a value that is not UTF-8: NUL is in no header that has a meaning.
_BINARY = "\x00 (not UTF-8)"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class OutcomeNotUnderstood(EnvelopeError):
    """A reply says what became of its command in a word that is none of the protocol's: a person must read it."""

    def __init__(self, message: str, command_id: str, saga_id: str | None) -> None:
        super().__init__(message)
        self.command_id = command_id
        self.saga_id = saga_id


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
    #: Of a compensation: the coordinator knows that the invoke has succeeded.
    done: bool = False
    deadline: datetime | None = None
    time: datetime | None = None
    content_type: str = JSON
    passed_on: tuple[tuple[str, str], ...] = ()
    #: So many seconds a handler may be silent before the command is asked again; None: it was not said.
    heartbeat: float | None = None

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
        if self.heartbeat is not None:
            pairs.append(("ce_sagaheartbeat", f"{self.heartbeat:g}"))
        if self.done:
            pairs.append(("ce_sagadone", "true"))
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
    #: Of a `failure`: the handler's own word, though its code may be one of the protocol's.
    rejected: bool = False
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
    #: The participant lacks the activity, or can't read its input: deployments do not fit each other.
    mismatch: bool = False

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
            ("ce_sagarejected", "true" if self.rejected else None),
            ("ce_sagaretryafter", None if self.retry_after is None else f"{self.retry_after:g}"),
            (MISMATCH, "true" if self.mismatch else None),
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


def text_headers(record: Record) -> dict[str, str]:
    """The headers of `record` that have a meaning here, as text; the last of a repeated name wins.

    One without a value counts as absent. One that is not UTF-8 has a stand-in that means nothing: where it must be
    there it is refused by its name, where it advises it counts as absent.
    """
    try:
        found = {name: value.decode() for name, value in record.headers if name in _OURS}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        return _careful_headers(record.headers)
    return found


def _careful_headers(pairs: Headers) -> dict[str, str]:
    """The same, one by one: for what is binary or missing."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in _OURS and value is not None:
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                found[name] = _BINARY
    return found


def parse_command(record: Record) -> Command:
    """The command that `record` carries. Raises EnvelopeError naming the header that is missing or wrong."""
    headers = text_headers(record)
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
        source=_advice(headers, "ce_source") or "",
        causation_id=_advice(headers, "ce_causationid") or "",
        subject=_advice(headers, "ce_subject"),
        deadline=_needed_moment(headers, "ce_sagadeadline"),
        time=_needed_moment(headers, "ce_time"),
        content_type=headers.get("content-type") or JSON,
        passed_on=_passed_on(headers),
        heartbeat=_heartbeat(headers.get("ce_sagaheartbeat", "")),
        done=headers.get("ce_sagadone") == "true",
    )


def _heartbeat(text: str) -> float | None:
    """Advisory: what is no positive number of seconds counts as absent."""
    try:
        seconds = float(text) if text and len(text) < 40 else 0.0
    except ValueError:
        return None
    return seconds if 0.0 < seconds < 1e9 else None


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


def parse_reply(record: Record) -> Reply:
    """The reply that `record` carries.

    Only `ce_causationid` is mandatory; it decides, with the outcome and the effect. Without a `ce_sagaid` that can be
    one the key is the saga's id. Raises OutcomeNotUnderstood where the outcome is no word of the protocol, in whatever
    case its letters are.
    """
    headers = text_headers(record)
    command_id = _required(headers, "ce_causationid")
    saga_id = _id_in(headers.get("ce_sagaid")) or _id_in(_key_text(record))
    advice = headers.get if _is_plain(headers) else partial(_advice, headers)
    outcome = headers.get("ce_sagaoutcome", "success")
    if outcome not in OUTCOMES:
        outcome = outcome.strip().lower()
        if outcome not in OUTCOMES:
            said = headers["ce_sagaoutcome"]
            message = f"header ce_sagaoutcome is {said!r:.40}, allowed are success, failure, retry, pending"
            raise OutcomeNotUnderstood(message, command_id, saga_id)
    return Reply(
        id=advice("ce_id") or f"{record.topic}:{record.partition}:{record.offset}",
        command_id=command_id,
        outcome=cast("Outcome", outcome),
        saga_id=saga_id,
        error=_advice(headers, "ce_sagaerror", 255) if "ce_sagaerror" in headers else None,
        effect=_effect(headers) if "ce_sagaeffect" in headers else "none",
        retry_after=_seconds(headers, "ce_sagaretryafter"),
        rejected=headers.get("ce_sagarejected") == "true",
        source=advice("ce_source") or "",
        type=advice("ce_type") or "",
        saga_type=advice("ce_sagatype"),
        step=advice("ce_sagastep"),
        action=advice("ce_sagaaction"),
        attempt=advice("ce_sagaattempt"),
        subject=advice("ce_subject"),
        time=_moment(headers, "ce_time"),
        content_type=headers.get("content-type") or JSON,
        passed_on=_passed_on(headers),
        mismatch=headers.get(MISMATCH) == "true",
    )


def parse_request(record: Record) -> Request:
    """The start, signal or cancel that `record` carries.

    A start without `ce_sagaid` or key is named after its `ce_id`.
    """
    headers = text_headers(record)
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
        source=_advice(headers, "ce_source") or "",
        time=_moment(headers, "ce_time"),
        reason=_reason(headers),
        content_type=headers.get("content-type") or JSON,
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
    if value is _BINARY:
        raise EnvelopeError(f"header {name} is not UTF-8 text")
    if len(value) > _LONGEST or "\x00" in value:
        raise EnvelopeError(f"header {name} is longer than {_LONGEST} characters or contains NUL")
    return value


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Whether all of them together are as short as each may be, and printable: so are those of nearly every record."""
    text = "".join(headers.values())
    return len(text) <= _LONGEST and text.isprintable()


def _advice(headers: Mapping[str, str], name: str, longest: int = _LONGEST) -> str | None:
    """The text of a header that only advises; None where it is absent, too long, or no text that people can read."""
    value = headers.get(name)
    if value is None or len(value) > longest or (not value.isprintable() and _UNPRINTABLE.search(value)):
        return None
    return value


def _reason(headers: Mapping[str, str]) -> str | None:
    """Why somebody cancels: people's words, of several lines maybe, and cut where they are stored."""
    value = headers.get("ce_sagareason")
    return None if value is None or value is _BINARY else value


def _effect(headers: Mapping[str, str]) -> Effect:
    """Absent means none; a word that is none of the protocol's proves nothing."""
    effect = headers.get("ce_sagaeffect", "none")
    return "none" if effect == "none" or effect.strip().lower() == "none" else "unknown"


def _id_in(text: str | None) -> str | None:
    """The text, if it can be a saga's id."""
    if not text:
        return None
    try:
        return check_id("saga id", text)
    except InvalidId:
        return None


def _key_text(record: Record) -> str | None:
    try:
        return record.key.decode() if record.key else None
    except UnicodeDecodeError:
        return None


def _moment(headers: Mapping[str, str], name: str) -> datetime | None:
    """An RFC 3339 time in UTC; None for anything else. One without a zone is taken as UTC."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(_LEAP.sub(":59", value.translate(_SMALL)))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _needed_moment(headers: Mapping[str, str], name: str) -> datetime | None:
    """The same, for a time that decides whether a command is handled: one that is there must be read."""
    moment = _moment(headers, name)
    if moment is None and name in headers:
        raise EnvelopeError(f"header {name} is {headers[name]!r:.40}, expected an RFC 3339 time")
    return moment


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    """Seconds from 0 to a year; None for anything else."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86400 * 366 else None


def _passed_on(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What is handed on, as far as it fits into the messages that it would be handed on to."""
    if headers.keys().isdisjoint(PASSED_ON):
        return ()
    values = ((name, _advice(headers, name, _LONGEST_PASSED_ON[name])) for name in PASSED_ON if name in headers)
    return tuple((name, value) for name, value in values if value is not None)
