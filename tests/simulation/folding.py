"""Whether a saga's row is what its history says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from segue.clock import to_micros
from segue.coordinator.projection import row_of
from segue.coordinator.store import EventRow, SagaRow
from segue.saga.fold import fold
from segue.saga.turn import wake_at

_COMPARED = tuple(name for name in SagaRow.__struct_fields__ if name not in ("wake_at", "tenant", "parent_id"))

_NEVER = datetime.max.replace(tzinfo=UTC)


def difference(row: SagaRow, events: Sequence[EventRow]) -> str | None:
    """What differs; None if nothing does."""
    if [event.seq for event in events] != list(range(1, row.revision + 1)):
        return f"history {[event.seq for event in events]}, revision {row.revision}"
    of_run = events[row.first_seq - 1 :]
    state = fold(row.id, ((to_micros(event.at), event.payload) for event in of_run))
    wake = wake_at(state)
    folded = row_of(state, wake)
    for name in _COMPARED:
        if getattr(row, name) != getattr(folded, name):
            return f"{name} is {getattr(row, name)!r}, its history says {getattr(folded, name)!r}"
    # Signs of life that are kept beside the history put off what answers silence.
    put_off = bool(state.signs) and (folded.wake_at or _NEVER) < (row.wake_at or _NEVER)
    if row.wake_at != folded.wake_at and not state.undriven and not put_off:
        return f"wake_at is {row.wake_at}, its history says {folded.wake_at}"
    return None
