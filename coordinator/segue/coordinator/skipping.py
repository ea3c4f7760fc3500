"""Reading goes on behind a batch that nobody can read: what is written about it, in the transaction that moves on."""

from __future__ import annotations

from segue.clock import from_micros
from segue.coordinator.store import AuditEntry, Batch, OffsetMove, OffsetNote
from segue.coordinator.work import Work
from segue.errors import DecodeError
from segue.topics.broker import Record, Unreadable
from segue.topics.obstacles import REASON


def note_standing(work: Work, coordinator: str, move: OffsetMove, unreadable: Unreadable) -> None:
    """Let `segue verify` tell that the partition stands."""
    work.changes.notes.append(
        OffsetNote(
            coordinator=coordinator,
            partition=move.partition,
            stands_at=move.start,
            problem=unreadable.problem[:1024],
        )
    )


def step_over(work: Work, batch: Batch, coordinator: str, move: OffsetMove, unreadable: Unreadable) -> None:
    """A dead letter without bytes, an audit entry, the moved offset; and from now on answers may be lost."""
    topic, number = move.partition
    batch.fence(coordinator, [move])
    work.letter(
        Record(topic=topic, partition=number, offset=move.start), REASON, DecodeError(unreadable.problem), saga_id=None
    )
    work.changes.audits.append(
        AuditEntry(
            at=from_micros(work.now),
            actor=coordinator,
            action="offset.skip",
            subject=f"{topic}[{number}]@{move.start}",
            reason=unreadable.problem[:1024],
            before=str(move.start),
            after=str(move.end),
        )
    )
    work.changes.notes.append(OffsetNote(coordinator=coordinator, partition=move.partition))
