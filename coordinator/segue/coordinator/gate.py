"""The drain gate: no deadline fires before every answer that came in time has been read.

Database time T and the end offsets of all topics that can answer are noted; once every stored offset has reached its
end, all that was written before T has been applied. It does not matter who owns which partition: the offsets are in
the database. So an outage of an hour, or lag, never looks like silence.

A note is kept until it is reached: under load the ends run ahead of the reader all the time, and one who compared only
with where they are now would find the gate shut for as long as the load lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from segue.coordinator.store import Store
from segue.observe import Observer
from segue.topics.broker import Consumer, Partition

#: How long the gate may stay shut in front of a due saga before people are told.
ALERT_AFTER = timedelta(seconds=30)


class DrainGate:
    """Asks broker and database up to which time everything has been read."""

    def __init__(
        self, store: Store, consumer: Consumer, coordinator: str, topics: Sequence[str], observer: Observer
    ) -> None:
        self._store = store
        self._consumer = consumer
        self._coordinator = coordinator
        self._topics = topics
        self._observer = observer
        self._alerted = False
        #: A time, and the ends of the topics then, which have not all been reached yet.
        self._note: tuple[datetime, Mapping[Partition, int]] | None = None

    def open_to(self, wanted: datetime) -> datetime | None:
        """The time up to which deadlines may fire, because somebody is due at `wanted`; None: not at all."""
        now = self._store.now()
        ends = self._consumer.end_offsets(self._topics)
        drained = self._drained(now, ends, wanted)
        shut = drained is None or drained < wanted
        if shut and now - wanted > ALERT_AFTER and not self._alerted:
            self._alerted = True
            self._observer.event("gate.alert", due=wanted, drained_to=drained, partitions=len(ends))
        elif not shut:
            self._alerted = False
        return drained

    def _drained(self, now: datetime, ends: Mapping[Partition, int], wanted: datetime) -> datetime | None:
        if not ends:
            return None
        drained = self._store.note_drained(self._coordinator, now, ends)
        if drained is not None and drained >= wanted:
            self._note = None
            return drained
        if self._note is not None:
            noted_at, noted = self._note
            # Ends that went back: the topic was created again or truncated, and the old ones are never reached.
            if all(ends.get(partition, 0) >= end for partition, end in noted.items()):
                drained = self._store.note_drained(self._coordinator, noted_at, noted)
                if drained is None or drained < noted_at:
                    return drained
        self._note = (now, ends)
        return drained
