"""The shapes of `--json`: documented, and stable within a major version (names are only added)."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from typing import Any

import msgspec

from segue.coordinator.store import AuditEntry, DeadLetterRow, SagaRow
from segue.coordinator.view import SagaView


def plain_row(row: SagaRow, overdue: bool) -> dict[str, Any]:
    """A row for `--json`: payloads as the JSON they are."""
    values = msgspec.structs.asdict(row)
    values["input"] = as_json(row.input)
    values["result"] = None if row.result is None else as_json(row.result)
    return {**values, "overdue": overdue}


def as_json(payload: bytes) -> Any:
    """A stored payload embedded in JSON: itself where it is JSON, as it should be, else a text."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return payload.decode("utf-8", "backslashreplace")


def plain_view(view: SagaView) -> dict[str, Any]:
    """The view for `--json`."""
    values = {name: getattr(view, name) for name in SagaView.__dataclass_fields__ if name not in ("row", "requests")}
    requests = [{**asdict(request), "arguments": as_json(request.arguments)} for request in view.requests]
    return {**plain_row(view.row, view.overdue), **values, "requests": requests}


def plain_dead_letter(letter: DeadLetterRow, *, whole: bool) -> dict[str, Any]:
    """A dead letter for `--json`; `whole`: with key, value and headers, as base64."""
    record = letter.record
    names = (
        "id state reason error_class error_message fingerprint saga_id attempts replays topic_id created_at updated_at"
        " coordinator"
    )
    values = {name: getattr(letter, name) for name in names.split()}
    values |= {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "bytes": len(record.value or b"") if letter.size is None else letter.size,
    }
    if whole:
        values |= {
            "key": _base64(record.key),
            "value": _base64(record.value),
            "headers": [[name, _base64(value)] for name, value in record.headers],
        }
    return values


def plain_audit(entry: AuditEntry) -> dict[str, Any]:
    """A line of the audit for `--json`."""
    return asdict(entry)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode("ascii")
