"""The audit's hash chain: a line that was changed, removed or put in between breaks it from there on.

It can't show that the last lines were cut off; who fears that keeps the newest hash elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from segue.coordinator import statements
from segue.coordinator.store import AuditEntry

#: What the first line follows.
GENESIS = "0" * 64

_HASHED = ("seq", "at", "actor", "action", "saga_id", "subject", "reason", "before", "after", "outcome", "request_id")


def chain(last: tuple[int, str] | None, entries: Sequence[AuditEntry]) -> list[dict[str, Any]]:
    """Rows for `entries` after the line `last` (seq, hash): numbered without gaps, each with its hash."""
    seq, previous = last or (0, GENESIS)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        seq += 1
        row: dict[str, Any] = {"seq": seq} | {name: getattr(entry, name) for name in _HASHED[1:]}
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
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(previous.encode() + text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(value, datetime) else value
