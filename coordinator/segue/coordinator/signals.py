"""What a coordinator does about signals that their saga is not, or not again, told: dead letters, conflicts, order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from segue.coordinator.store import DeadLetterRow, EventRow
from segue.ids import derive
from segue.saga import events as e
from segue.saga.effects import DropSignal
from segue.saga.state import SagaState
from segue.topics.broker import Record
from segue.topics.envelope import JSON, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalView:
    """A signal in a saga's history. `received`: it was handed to the code, whatever that made of it."""

    name: str
    at: datetime
    sender: str
    id: str
    status: Literal["received", "waiting", "rejected"]
    payload: msgspec.Raw


def signals_of(events: Sequence[tuple[EventRow, e.AnyEvent]], state: SagaState) -> list[SignalView]:
    """The signals in these events, in their order, and what has become of them."""
    rejected = {event.id for _, event in events if isinstance(event, e.SignalRejected)}
    waiting = {
        (signal.signal, signal.id, bytes(signal.payload)) for signals in state.signals.values() for signal in signals
    }
    found: list[SignalView] = []
    for row, event in events:
        if isinstance(event, e.SignalReceived):
            key = (event.signal, event.id, bytes(event.payload))
            status: Literal["received", "waiting", "rejected"] = "waiting" if key in waiting else "received"
            if event.id and event.id in rejected:
                status = "rejected"
            found.append(
                SignalView(
                    name=event.signal, at=row.at, sender=event.sender, id=event.id, status=status, payload=event.payload
                )
            )
    return found


#: Why a signal that was in a saga's history is a dead letter all the same.
DROPPED = frozenset(("invalid_signal", "unreceived"))


def record_of(dropped: DropSignal, topic: str, saga_id: str) -> Record | None:
    """The message that brought a signal, made anew from the history: its payload as JSON, its id and sender.

    None for a signal of which the history does not know where it came from: an older version wrote it.
    """
    signal = dropped.signal
    if signal.origin is None:
        return None
    partition, offset, timestamp_ms = signal.origin
    request = Request(id=signal.id, action="signal", saga_id=saga_id, name=signal.signal, source=signal.sender)
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
        key=saga_id.encode(),
        value=bytes(signal.payload),
        headers=msgspec.structs.replace(request, content_type=JSON).headers(),
    )


def brought(row: EventRow, name: str, payload: bytes) -> bool:
    """Whether this transition came of just this signal."""
    return any(
        isinstance(event, e.SignalReceived) and event.signal == name and bytes(event.payload) == payload
        for event in e.decode_events(row.payload)
    )


def sent_again(letter: DeadLetterRow, request: Request) -> Request:
    """The request of a replayed dead letter; the history has the id of one that the saga was to be told already."""
    if letter.reason not in DROPPED:
        return request
    return msgspec.structs.replace(
        request, id=derive("replay of a signal", request.id, str(letter.id), str(letter.replays))
    )
