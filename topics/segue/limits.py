"""Bounds on everything that comes from outside, checked before it is decoded or stored."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from segue.errors import ContractError, InvalidId

#: Longest saga id, name or occurrence, in characters: a btree key of PostgreSQL ends at 2,704 bytes.
MAX_ID_LENGTH = 255
#: Longest name of a coordinator, in characters: the column's.
MAX_COORDINATOR_LENGTH = 120
#: Longest fence key, and so the longest key of a command, in bytes: coordinator, saga and occurrence with what joins
#: them. With its consumer it stays below what may be indexed: 2,704 bytes in PostgreSQL, 3,072 in MySQL, which counts
#: four for a character.
MAX_KEY_LENGTH = 640

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,255}")
_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one deployment; the defaults follow Temporal's and Step Functions' where those exist."""

    #: Bytes of one payload: of an input, an output, a signal. What is composed of two of them may be as long as both.
    payload_bytes: int = 256 * 1024
    #: Number of headers of one record that Segue writes; half of them may be the caller's.
    header_count: int = 64
    #: Bytes of all headers of one record that Segue writes, names included.
    header_bytes: int = 16 * 1024
    #: Nesting of a JSON or Avro value.
    depth: int = 64
    #: Keys of all objects of one JSON document.
    json_keys: int = 10_000
    #: Items of all arrays and maps of one Avro datum.
    avro_items: int = 100_000
    #: Commands of one saga that are outstanding at the same time.
    pending_commands: int = 10_000
    #: Signals of one saga that nobody has received yet.
    pending_signals: int = 1_000
    #: Transitions in the history of one saga; its code is told nothing more beyond, so that a rebuild stays bounded.
    history_events: int = 50_000

    @property
    def composed(self) -> Limits:
        """Of a message that Segue composes of an input and an output, each within these: what a compensation receives.

        An output that is not JSON on the wire is kept as base64, which is a third longer.
        """
        as_text = -(-self.payload_bytes // 3) * 4 + len('""')
        return replace(
            self,
            payload_bytes=self.payload_bytes + as_text + len('{"input":,"output":}'),
            depth=self.depth + 1,
            json_keys=2 * self.json_keys + 2,
            avro_items=2 * self.avro_items,
        )


DEFAULT_LIMITS = Limits()


def check_id(what: str, value: object) -> str:
    """Return `value` if it can be an id (1 to 255 of `A-Za-z0-9._:-`), else raise InvalidId."""
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise InvalidId(f"{what} {value!r:.80} is not an id: use 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ : -")
    return value


def check_name(what: str, value: object) -> str:
    """Return `value` if it can name an activity, a signal or an attribute, else raise ContractError."""
    if not isinstance(value, str) or len(value) > 120 or _NAME.fullmatch(value) is None:
        raise ContractError(f"{what} name {value!r:.80} must be words of A-Z a-z 0-9 _ - joined by dots")
    return value
