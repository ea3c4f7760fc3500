"""Which handler answers which activity, and a command made ready for it: envelope read, payload decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec

from segue.contract import Activity
from segue.errors import DecodeError, EnvelopeError, InputError
from segue.limits import DEFAULT_LIMITS, MAX_KEY_LENGTH, Limits
from segue.topics.broker import Record
from segue.topics.codec import Codecs
from segue.topics.converter import Converter
from segue.topics.envelope import Command, parse_command

TransactionMode = Literal["joined", "single", "manual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A handler and the contract that it fulfils."""

    activity: Activity[Any, Any]
    function: Callable[[Any, Any], Any]
    transaction: TransactionMode = "joined"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a command can't be handled: it is dead-lettered, and refused if nothing else is known of it."""

    code: Literal["invalid_input", "unknown_activity"]
    error: Exception


class Prepared(msgspec.Struct, kw_only=True):
    """A command whose envelope could be read; either a handler and its input, or a fault."""

    record: Record
    command: Command
    registration: Registration | None = None
    fault: Fault | None = None
    #: The input as it was decoded to see whether that is possible; None once a handler had it.
    first: Any = None
    #: Decodes the input once more.
    decode: Callable[[], Any] | None = None

    def input(self) -> Any:
        """The input for one run of the handler: never one that an earlier run may have changed."""
        found, self.first = self.first, None
        if found is None and self.decode is not None:
            found = self.decode()
        return found


class UnknownActivity(InputError):
    """No handler is registered for this activity."""

    code = "unknown_activity"


class Reader:
    """Reads records of a command topic; decoding happens before any transaction is begun."""

    def __init__(
        self,
        registrations: Mapping[str, Registration],
        *,
        codecs: Codecs,
        converter: Converter,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._registrations = registrations
        self._converter = converter
        self._limits = limits
        composed = (codecs.composed(), limits.composed.payload_bytes)
        self._payloads = {"invoke": (codecs, limits.payload_bytes), "compensate": composed}

    def prepare(self, record: Record) -> Prepared:
        """Raises EnvelopeError where not even an answer is possible."""
        command = parse_command(record)
        if len(command.key.encode()) > MAX_KEY_LENGTH:
            raise EnvelopeError(f"header ce_sagakey is longer than {MAX_KEY_LENGTH} bytes")
        if len(command.saga_id) > 255 or len(command.reply_to) > 249 or len(command.id) > 255:
            raise EnvelopeError("header ce_id, ce_sagaid or ce_sagareplyto is too long to be answered")
        registration = self._registrations.get(command.activity)
        if registration is None:
            error: Exception = UnknownActivity(_no_handler(command, self._registrations))
            return _faulty(record, command, "unknown_activity", error)
        if (registration.activity.undoes is not None) != (command.action == "compensate"):
            error = UnknownActivity(f"{command.activity} does not {command.action}; see its contract")
            return _faulty(record, command, "unknown_activity", error)
        try:
            canonical = self._canonical(command, record)
            decode = partial(self._converter.from_bytes, canonical, registration.activity.input)
            return Prepared(record=record, command=command, registration=registration, first=decode(), decode=decode)
        except InputError as wrong:
            return _faulty(record, command, "invalid_input", wrong)

    def _canonical(self, command: Command, record: Record) -> bytes:
        value = record.value
        codecs, allowed = self._payloads[command.action]
        if value is not None and len(value) > allowed:
            raise DecodeError(f"payload has {len(value)} bytes, allowed are {allowed}")
        return b"null" if value is None else codecs.decode(command.content_type, value, record.topic)


def _faulty(record: Record, command: Command, code: Any, error: Exception) -> Prepared:
    return Prepared(record=record, command=command, fault=Fault(code, error))


def _no_handler(command: Command, registrations: Mapping[str, Registration]) -> str:
    known = ", ".join(sorted(registrations)) or "none"
    return f"no handler for {command.activity!r:.130}; this worker has: {known:.600}"
