"""The drain gate: no deadline fires before every answer that came in time has been read.

Database time T and the end offsets of all topics that can answer are noted; once every stored offset has reached its
end, all that was written before T has been applied. It does not matter who owns which partition: the offsets are in
the database. So an outage of an hour, or lag, never looks like silence.

A note is kept until it is reached: under load the ends run ahead of the reader all the time, and one who compared only
with where they are now would find the gate shut for as long as the load lasts.

Offsets prove something, times alone don't: after the database's clock has stepped back, what is written now is older
than what was noted before. So no time is remembered longer than its offsets, and a note that is older than the
database's clock says, by this process's monotonic clock, is void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from segue.clock import Clock
from segue.coordinator.store import Store, StoredOffset
from segue.observe import Observer
from segue.topics.broker import Consumer, Partition

#: How long the gate may stay shut in front of a due saga before people are told.
ALERT_AFTER = timedelta(seconds=30)
#: Seconds by which one answer of the database may take longer than another before its clock counts as set back.
_TOLERANCE = 0.25


class _Note(msgspec.Struct, frozen=True):
    """A time of the database, what this process's monotonic clock showed then, and the ends of the topics."""

    at: datetime
    monotonic: float
    ends: Mapping[Partition, int]


class DrainGate:
    """Asks broker and database up to which time everything has been read."""

    def __init__(
        self,
        store: Store,
        consumer: Consumer,
        coordinator: str,
        topics: Sequence[str],
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._store = store
        self._consumer = consumer
        self._coordinator = coordinator
        self._topics = topics
        self._observer = observer
        self._clock = clock
        self._alerted = False
        #: Has not been reached yet.
        self._note: _Note | None = None
        #: Has been reached: what the gate is open to.
        self._opened: _Note | None = None

    def open_to(self, wanted: datetime) -> bool:
        """Whether deadlines up to `wanted` may fire, when somebody is due then."""
        here = self._look_around()
        stored = self._store.offsets(self._coordinator)
        self._opened = self._reached(here, stored)
        is_open = self._opened is not None and self._opened.at >= wanted
        if is_open:
            self._alerted = False
            return True
        self._observer.count("gate.shut")
        if here.at - wanted > ALERT_AFTER and not self._alerted:
            self._alerted = True
            unread = [p for p, end in sorted(here.ends.items()) if not _read_to(stored, p, end)]
            behind = ", ".join(f"{topic}[{number}]" for topic, number in unread)
            self._observer.event("gate.alert", due=wanted, behind=behind, partitions=len(here.ends))
        return False

    def until(self, now: datetime) -> datetime | None:
        """The time up to which deadlines may fire in a transaction that began at `now`, by the database's clock.

        None: that clock has stepped back since the gate was opened, and the gate proves nothing any more.
        """
        if self._opened is None or self._stepped_back(self._opened, now):
            return None
        return min(self._opened.at, now)

    def _look_around(self) -> _Note:
        at = self._store.now()
        monotonic = self._clock.monotonic()
        return _Note(at, monotonic, self._consumer.end_offsets(self._topics))

    def _reached(self, here: _Note, stored: Mapping[Partition, StoredOffset]) -> _Note | None:
        """The note up to which all has been read, if there is one."""
        if here.ends and _all_read(stored, here.ends):
            self._note = None
            return here
        kept = self._note
        if kept is None or self._stepped_back(kept, here.at) or _went_back(kept.ends, here.ends):
            self._note = here
            return None
        if not _all_read(stored, kept.ends):
            return None
        self._note = here
        return kept

    def _stepped_back(self, note: _Note, now: datetime) -> bool:
        """Whether the database's clock, which shows `now`, has not run as long as this process's since the note."""
        return (now - note.at).total_seconds() < self._clock.monotonic() - note.monotonic - _TOLERANCE


def _read_to(stored: Mapping[Partition, StoredOffset], partition: Partition, end: int) -> bool:
    return partition in stored and stored[partition].next >= end


def _all_read(stored: Mapping[Partition, StoredOffset], ends: Mapping[Partition, int]) -> bool:
    return all(_read_to(stored, partition, end) for partition, end in ends.items())


def _went_back(noted: Mapping[Partition, int], ends: Mapping[Partition, int]) -> bool:
    """The topic was created again or truncated, and its old ends are never reached; or there was none."""
    return not noted or any(ends.get(partition, 0) < end for partition, end in noted.items())
