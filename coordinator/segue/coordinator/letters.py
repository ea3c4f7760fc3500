"""Dead letters: what makes two of them the same error, what of them can be stored, how others hear of them."""

from __future__ import annotations

import hashlib
import re

from segue.coordinator.store import DeadLetterRow
from segue.errors import SegueError
from segue.ids import derive
from segue.outbox.message import Message, raw_message
from segue.topics import TopicNames
from segue.topics.deadletter import dead_letter_record

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


def printable(text: str) -> str:
    """The text as every database can store it: no NUL, no lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
