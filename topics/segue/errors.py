"""One tree of exceptions, split by whose fault it is.

    SegueError
    ├── UsageError            the program that uses Segue is wrong: change the code
    │   ├── ContractError         a contract or a saga definition contradicts itself
    │   └── InvalidId             an id has other characters, or more of them, than ids may have
    ├── ConfigError           a setting is missing or wrong: change the configuration
    ├── InputError            what came in from outside is wrong: dead letter, refuse
    │   ├── DecodeError           the bytes are not what their content type says, or exceed a limit
    │   ├── InvalidPayload        well-formed, but not a value of the declared type
    │   ├── EnvelopeError         a mandatory header is missing or has no meaning
    │   ├── RejectedRecord        the broker refuses the record for good (too large)
    │   └── RejectedWrite         the database refuses the value for good (SQLSTATE 22, 23, 54)
    ├── StateError            the request does not fit the state: tell the caller
    │   ├── NotFound              no such saga, step or dead letter
    │   ├── StartConflict         the id is taken by a saga of another type or with another input
    │   └── NotAllowed            the saga is not in a state in which this can be done
    └── Unavailable           a dependency is down or slow: try again   (the only transient branch)
        ├── BrokerUnavailable
        ├── StoreUnavailable
        └── Fenced                another process has moved on: reload and go on

`code` is stable and may be matched by programs; the text is for people.
"""

from __future__ import annotations

import re
from typing import ClassVar

#: Where a sentence of ours, msgspec's or SQLAlchemy's, begins to show what somebody's payload holds.
_SHOWS = re.compile(r"(?:, found |(?<=can't hold) |(?<=Invalid enum value) |\[parameters: ).*", re.DOTALL)


class SegueError(Exception):
    """Base of everything that Segue raises on purpose."""

    code: ClassVar[str] = "segue"


class UsageError(SegueError):
    """The program that uses Segue is wrong."""

    code = "usage"


class ContractError(UsageError):
    """A contract or a saga definition contradicts itself."""

    code = "contract"


class InvalidId(UsageError):
    """An id has other characters, or more of them, than ids may have."""

    code = "invalid_id"


class ConfigError(SegueError):
    """A setting is missing or wrong; the message names the setting, its value and what is allowed."""

    code = "config"


class InputError(SegueError):
    """What came in from outside is wrong."""

    code = "input"


class DecodeError(InputError):
    """The bytes are not what their content type says, or exceed a limit."""

    code = "undecodable"


class InvalidPayload(InputError):
    """The payload is well-formed but is not a value of the declared type."""

    code = "invalid_payload"


class EnvelopeError(InputError):
    """A mandatory header is missing or has no meaning."""

    code = "invalid_envelope"


class RejectedRecord(InputError):
    """The broker refuses the record for good (it is too large); sending it again would not help."""

    code = "rejected_record"


class RejectedWrite(InputError):
    """The database refuses the value for good (SQLSTATE 22, 23, 54); trying again would not help."""

    code = "rejected_write"


class StateError(SegueError):
    """The request does not fit the state."""

    code = "state"


class NotFound(StateError):
    """No such saga, step or dead letter."""

    code = "not_found"


class StartConflict(StateError):
    """The id is taken by a saga of another type, or with another input."""

    code = "start_conflict"


class NotAllowed(StateError):
    """The saga is not in a state in which this can be done."""

    code = "not_allowed"


class Unavailable(SegueError):
    """A dependency is down or slow; the same call may succeed later."""

    code = "unavailable"


class BrokerUnavailable(Unavailable):
    """Kafka did not answer in time, or refused for a reason that passes."""

    code = "broker_unavailable"


class StoreUnavailable(Unavailable):
    """The database did not answer in time, or refused for a reason that passes (SQLSTATE 08, 40, 53, 57, 55P03)."""

    code = "store_unavailable"


class Fenced(Unavailable):
    """Another process has moved this partition or saga on; what was read is stale."""

    code = "fenced"


def for_log(error: BaseException) -> str:
    """The error as it may be logged: one line, its class where it is not ours, and no value out of a payload.

    What was found in place of the expected type is in the dead letter, for those who may read the database.
    """
    text = str(error).strip().partition("\n")[0]  # more lines are a driver's details, with whole rows in them
    text = _SHOWS.sub(" … (see the dead letter)", text)
    return text if isinstance(error, SegueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def is_transient(error: BaseException) -> bool:
    """True where trying the same again may succeed."""
    return isinstance(error, Unavailable)
