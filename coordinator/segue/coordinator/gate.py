"""The drain gate: no deadline fires before every answer that came in time has been read.

Database time T and the end offsets of all topics that can answer are noted; once every stored offset has reached its
end, all that was written before T has been applied. It does not matter who owns which partition: the offsets are in
the database. So an outage of an hour, or lag, never looks like silence.

A note is kept until it is reached: under load the ends run ahead of the reader all the time, and one who compared only
with where they are now would find the gate shut for as long as the load lasts.

Offsets prove something, times alone don't: after the database's clock has stepped back, what is written now is older
than what was noted before. So no time is remembered longer than its offsets, and a note that is older than the
database's clock says, by this process's monotonic clock, is void.

A clock that jumps ahead lets no deadline fire: what was promised an hour would have had a second. Here time goes at
most a little faster than this process's monotonic clock, until it has caught up (as NTP slews a clock, where a step
would break things). A process that starts takes the database's clock as it is.

The ends are the high watermarks. While another producer's transaction is open, nobody can read on behind its first
record, so an answer may be in Kafka that cannot be read yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from segue.clock import Clock, to_micros
from segue.coordinator.store import Store, StoredOffset
from segue.observe import Observer
from segue.topics.broker import Consumer, Partition

#: How long the gate may stay shut in front of a due saga before people are told.
ALERT_AFTER = timedelta(seconds=30)
#: How many seconds go by here, at most, while the monotonic clock shows one. After the database's clock has jumped an
#: hour ahead a deadline still gets four fifths of what it was promised, and four hours later all is as before. Faster,
#: and deadlines have less; slower, and what is planned meanwhile is late for longer.
CATCH_UP = 1.25
#: How far the database's clock may be ahead before people are told.
AHEAD = timedelta(seconds=30)
#: How long it takes until they are told again of a gate that stays shut, with what keeps it shut by then.
ALERT_EVERY = timedelta(minutes=5)
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
        #: Monotonic time before which nobody is told again that the gate is shut.
        self._quiet_until = 0.0
        #: How far time has come here, and what the monotonic clock showed then.
        self._believed: tuple[datetime, float] | None = None
        self._told_ahead = False
        #: When something that nobody could read was last stepped over, in microseconds; 0: never. The gate opens over
        #: the offsets that say so, so that no deadline fires before it is known here.
        self.lost_at = 0
        #: Has not been reached yet.
        self._note: _Note | None = None
        #: Has been reached: what the gate is open to.
        self._opened: _Note | None = None

    def time(self, now: datetime) -> datetime:
        """How far time has come, where the database's clock shows `now`: no further than it can have.

        Called often, it notices a jump for what it is; who has not asked for an hour grants an hour.
        """
        monotonic = self._clock.monotonic()
        if self._believed is None:
            self._believed = now, monotonic
        before, then = self._believed
        reached = min(now, before + timedelta(seconds=CATCH_UP * max(0.0, monotonic - then)))
        self._believed = reached, monotonic
        if now - reached > AHEAD and not self._told_ahead:
            self._told_ahead = True
            hint = "no deadline fires before its time; restart the coordinators if the new time is right"
            self._observer.event("clock.alert", ahead=now - reached, hint=hint)
        elif now == reached:
            self._told_ahead = False
        return min(now, reached + timedelta(seconds=_TOLERANCE))

    def open_to(self, wanted: datetime) -> bool:
        """Whether deadlines up to `wanted` may fire, when somebody is due then."""
        here = self._look_around()
        stored = self._store.offsets(self._coordinator)
        skipped = [offset.skipped_at for p, offset in stored.items() if p.topic in self._topics]
        self.lost_at = max((to_micros(at) for at in skipped if at is not None), default=0)
        self._opened = self._reached(here, stored)
        is_open = self._opened is not None and self._opened.at >= wanted
        if is_open:
            self._quiet_until = 0.0
            return True
        self._observer.count("gate.shut")
        if here.at - wanted > ALERT_AFTER and here.monotonic >= self._quiet_until:
            self._quiet_until = here.monotonic + ALERT_EVERY.total_seconds()
            behind = self._behind(here, stored)
            self._observer.event("gate.alert", due=wanted, behind=behind, partitions=len(here.ends))
        return False

    def _behind(self, here: _Note, stored: Mapping[Partition, StoredOffset]) -> str:
        """The partitions that are not read to their end, and which of them nobody can read any further."""
        stable = self._consumer.stable_offsets(self._topics)
        texts = []
        for partition, end in sorted(here.ends.items()):
            if not _read_to(stored, partition, end):
                readable = stable.get(partition, end)
                stands = readable < end and _read_to(stored, partition, readable)
                why = f" (open transaction of another producer at offset {readable})" if stands else ""
                texts.append(f"{partition.topic}[{partition.number}]{why}")
        return ", ".join(texts)

    def until(self, now: datetime) -> datetime | None:
        """The time up to which deadlines may fire in a transaction that began at `now`, by the database's clock.

        None: that clock has stepped back since the gate was opened, and the gate proves nothing any more.
        """
        if self._opened is None or self._stepped_back(self._opened, now):
            return None
        return min(self._opened.at, self.time(now))

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
