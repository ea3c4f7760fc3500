"""Dead letters: what makes two of them the same error, what of them can be stored, how others hear of them."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from segue.coordinator.store import DeadLetterRow, DeadLetterState
from segue.errors import SegueError
from segue.ids import derive
from segue.limits import MAX_ID_LENGTH
from segue.outbox.message import Message, raw_message
from segue.topics import TopicNames
from segue.topics.broker import Record
from segue.topics.deadletter import dead_letter_record, kept

_VARYING = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|'[^']*'|\"[^\"]*\"|\d+")


def fingerprint_of(reason: str, error: BaseException) -> str:
    """Twelve hex digits that are equal for errors which differ only in ids, quoted values and numbers."""
    text = f"{reason}\n{type(error).__name__}\n{_VARYING.sub('?', str(error))}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def announcement(letter: DeadLetterRow, names: TopicNames) -> Message:
    """The dead letter on its way to the DLQ topic: through the outbox, so that it gets there whatever happens."""
    record = letter.record
    place = (record.topic, str(record.partition), str(record.offset), letter.topic_id, str(record.timestamp_ms))
    error = SegueError(letter.error_message)
    outgoing = dead_letter_record(
        record, names.dlq, letter.reason, error, names.coordinator, letter.attempts, letter.saga_id
    )
    return raw_message(derive("dead letter", *place), outgoing, letter.created_at)


def letter_of(
    record: Record,
    reason: str,
    error: BaseException,
    *,
    at: datetime,
    coordinator: str,
    topic_id: str,
    saga_id: str | None = None,
    state: DeadLetterState = "dead",
    definition: str | None = None,
) -> DeadLetterRow:
    """A record as a dead letter, byte for byte; of one that is too large a reference."""
    storable = saga_id is not None and len(saga_id) <= MAX_ID_LENGTH and printable(saga_id) == saga_id
    return DeadLetterRow(
        state=state,
        record=kept(record),
        topic_id=topic_id,
        reason=reason,
        error_class=type(error).__name__,
        error_message=printable(str(error))[:1024],
        fingerprint=fingerprint_of(reason, error),
        saga_id=saga_id if storable else None,
        created_at=at,
        updated_at=at,
        coordinator=coordinator,
        definition=definition,
    )


def printable(text: str) -> str:
    """The text as every database can store it: no NUL, no lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
