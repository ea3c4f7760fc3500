"""A batch of records that the client can't read: noticed, looked at with a fresh reader, and told about.

Its offset comes again and again, and with it stands its partition: everything behind it, and every deadline. Whether
it is stepped over is its owner's decision; here is what that rests on. Nothing is stepped over before several tries
have failed, a fresh reader has failed at the same place, and has read something behind it: a client that lacks a codec
would else eat a topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from segue.clock import Clock
from segue.observe import Observer
from segue.topics.broker import Consumer, Partition, Unreadable

#: Times that the same batch must fail before anybody takes a closer look.
TRIES = 3
#: Seconds between two looks with a fresh reader.
LOOK_EVERY = 15.0
#: Seconds after which people are told again of a partition that stands.
TELL_EVERY = 300.0
#: One batch of a partition may be stepped over in so long: more of them are no accident.
ONE_IN = timedelta(hours=1)
#: The reason of a dead letter that stands for such a batch.
REASON = "unreadable_batch"


@dataclass(slots=True)
class _Obstacle:
    offset: int
    tries: int = 0
    look_at: float = 0.0
    tell_at: float = 0.0


class Obstacles:
    """What one consumer can't read, by partition."""

    def __init__(self, consumer: Consumer, clock: Clock, observer: Observer) -> None:
        self._consumer = consumer
        self._clock = clock
        self._observer = observer
        self._known: dict[Partition, _Obstacle] = {}
        self._stepped: dict[Partition, float] = {}

    def met(self, partition: Partition, unreadable: Unreadable) -> bool:
        """It could not be read once more: whether that is no passing trouble, and time for a closer look."""
        known = self._known.get(partition)
        if known is None or known.offset != unreadable.offset:
            known = self._known[partition] = _Obstacle(unreadable.offset)
        known.tries += 1
        now = self._clock.monotonic()
        if known.tries < TRIES or now < known.look_at:
            return False
        known.look_at = now + LOOK_EVERY
        return True

    def behind(self, partition: Partition, unreadable: Unreadable, position: int) -> int | None:
        """Where reading can go on, as a fresh reader finds it; where nothing behind it can be read, people are told."""
        found = self._consumer.readable_from(partition, position)
        if found is None:
            self.tell(partition, unreadable, "a fresh reader finds nothing behind it that it can read")
        return found

    def may_step_over(self, partition: Partition) -> bool:
        """Whether none of this partition was stepped over within the last hour, for those who keep that nowhere else.

        Yes counts as the one.
        """
        now = self._clock.monotonic()
        before = self._stepped.get(partition)
        if before is not None and now - before < ONE_IN.total_seconds():
            return False
        self._stepped[partition] = now
        return True

    def tell(self, partition: Partition, unreadable: Unreadable, why: str) -> None:
        """Say that the partition stands, and why it is not stepped over; now and then."""
        known = self._known[partition]
        now = self._clock.monotonic()
        if now < known.tell_at:
            return
        known.tell_at = now + TELL_EVERY
        self._observer.event(
            "partition.alert",
            topic=partition.topic,
            partition=partition.number,
            offset=unreadable.offset,
            problem=unreadable.problem,
            hint=f"nothing behind it is read, and no deadline fires: {why}; see `segue topics skip`",
        )

    def passed(self, partition: Partition) -> None:
        """It is behind."""
        self._known.pop(partition, None)
