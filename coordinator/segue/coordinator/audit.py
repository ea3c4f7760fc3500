"""The audit's hash chain: a line that was changed, removed or put in between breaks it from there on.

`audit_head` counts the lines and holds the last hash, so that lines cut off at the end are missed. Who can write to the
database can write the head, too: a key that only coordinators have seals it, and a head kept elsewhere proves what was
there then, whatever happened since.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from segue.coordinator import statements
from segue.coordinator.store import AuditEntry
from segue.errors import UsageError

#: What the first line follows.
GENESIS = "0" * 64

_HASHED = ("seq", "at", "actor", "action", "saga_id", "subject", "reason", "before", "after", "outcome", "request_id")
#: Part of the hash where they are known: lines of older versions have none.
_HASHED_IF_KNOWN = ("database_role", "system_user")
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})(?::([0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the audit: how many lines, the hash of the last one, and the seal if a key is configured."""

    lines: int
    hash: str
    mac: str | None = None

    def __str__(self) -> str:
        return f"{self.lines}:{self.hash}" + (f":{self.mac}" if self.mac else "")

    def sealed_with(self, key: bytes) -> bool:
        """Whether it was written by who has the key."""
        return self.mac is not None and hmac.compare_digest(self.mac, seal(key, self.lines, self.hash))


def parse_head(text: str) -> Head:
    """The inverse of `str(head)`. Raises UsageError."""
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text.strip()!r:.80} is no head of an audit; `segue audit head` prints one, LINES:HASH[:SEAL]"
        )
    return Head(lines=int(match[1]), hash=match[2], mac=match[3])


def seal(key: bytes, lines: int, last: str) -> str:
    """HMAC-SHA256 of the head."""
    return hmac.new(key, f"{lines}:{last}".encode(), sha256).hexdigest()


def end_of_chain(head: tuple[int, str] | None, last: tuple[int, str] | None) -> tuple[int, str] | None:
    """(seq, hash) that the next line follows.

    The head, also where lines before it are gone: the gap must stay to be seen. But the last line where a coordinator
    of an older version wrote it, which knows no head.
    """
    if head is None or (last is not None and last[0] > head[0]):
        return last
    return head


def chain(last: tuple[int, str] | None, entries: Sequence[AuditEntry]) -> list[dict[str, Any]]:
    """Rows for `entries` after the line `last` (seq, hash): numbered without gaps, each with its hash."""
    seq, previous = last or (0, GENESIS)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        seq += 1
        names = (*_HASHED[1:], *_HASHED_IF_KNOWN)
        row: dict[str, Any] = {"seq": seq} | {name: getattr(entry, name) for name in names}
        row["previous_hash"] = previous
        row["hash"] = previous = _hash(previous, row)
        rows.append(row)
    return rows


def verify_audit(connection: Connection) -> int | None:
    """The sequence number of the first line that does not follow from the one before it; None if all do."""
    return first_broken(row._asdict() for row in connection.execute(statements.AUDIT_ALL))


def first_broken(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """As `verify_audit`, for rows in the order of `seq`."""
    previous = GENESIS
    for seq, row in enumerate(rows, start=1):
        if row["seq"] != seq or row["previous_hash"] != previous or row["hash"] != _hash(previous, row):
            return int(row["seq"])
        previous = row["hash"]
    return None


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    content = {name: _plain(row[name]) for name in _HASHED}
    content |= {name: row[name] for name in _HASHED_IF_KNOWN if row[name] is not None}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(previous.encode() + text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(value, datetime) else value
