"""The broker port: what the loops need of Kafka, and no more.

Adapters: `segue.topics.kafka` (real and embedded broker) and `segue.topics.memory` (a fake for tests). One conformance
suite runs against all of them. All calls are made from one thread per object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

Headers = tuple[tuple[str, bytes | None], ...]


class Partition(NamedTuple):
    """A topic and one of its partitions."""

    topic: str
    number: int


# Structs, not dataclasses: one is made for each record of a batch, and C makes them in a twentieth of the time.


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record as it was consumed; `value` None is a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def source(self) -> Partition:
        return Partition(self.topic, self.partition)


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record to be produced. The partition is chosen by the key (Java's murmur2) or at random."""

    topic: str
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of records that the client can't make records of, however often it is fetched."""

    #: Where it begins.
    offset: int
    problem: str


class Polled(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one poll."""

    records: Sequence[Record] = ()
    #: Partitions whose end was reached, with the offset of the next record to come. It may lie beyond the last record
    #: + 1: control records of other people's transactions take offsets, too.
    ended: Mapping[Partition, int] = msgspec.field(default_factory=dict)
    #: Partitions that stand, as what comes next can't be read; said again with each fetch.
    unreadable: Mapping[Partition, Unreadable] = msgspec.field(default_factory=dict)


class Starts(Protocol):
    """Says where to begin reading newly assigned partitions (the stored offsets); called inside `poll`."""

    def __call__(self, assigned: Sequence[Partition], /) -> Mapping[Partition, int]: ...


class Consumer(Protocol):
    """Reads topics as a member of a group. Assignment is a hint, never a lock."""

    def subscribe(
        self, topics: Sequence[str], *, starts: Starts, revoked: Callable[[Sequence[Partition]], None]
    ) -> None:
        """Join the group. A partition for which `starts` gives no offset begins at the earliest record."""
        ...

    def poll(self, max_records: int, timeout: float) -> Polled:
        """At most `max_records` records; returns at once when there are any, else after `timeout` seconds.

        Raises BrokerUnavailable for an error that passes, ConfigError for one that does not (authorisation, unknown
        topic). An offset that is out of range counts `offset.reset` and restarts the partition through `starts`, or, if
        that offset is not there either, at the earliest record with the event `offset.out_of_range`.
        """
        ...

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """Continue at these offsets; records fetched ahead are dropped. Partitions no longer assigned are ignored."""
        ...

    def pause(self, partitions: Iterable[Partition]) -> None: ...

    def resume(self, partitions: Iterable[Partition]) -> None: ...

    def assignment(self) -> frozenset[Partition]: ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Keep Kafka's own offsets up for lag tools; asynchronous, for owned partitions only, errors ignored."""
        ...

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """What the group last committed, for those who keep their offsets nowhere else.

        A partition without one is left out.
        """
        ...

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        """The offset after the last record of every partition of `topics`, asked of the broker now.

        That is the high watermark: records of other people's open transactions, and all that came after them, count,
        although they can't be read before the transaction has ended.
        """
        ...

    def readable_from(self, partition: Partition, offset: int) -> int | None:
        """Where reading can go on behind a batch that can't be read, as a fresh reader finds it.

        `offset` itself if that reader can read there; None while no record behind it can be read, either.
        """
        ...

    def stable_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        """How far every partition of `topics` can be read now: to its end, or to the first open transaction."""
        ...

    def begin_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """The earliest offset still there, of each of `partitions`."""
        ...

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """An id that changes when a topic is deleted and created again; "" where the broker tells none."""
        ...

    def close(self) -> None: ...


Acked = Callable[[Exception | None], None]


class Producer(Protocol):
    """Appends records, idempotently, with `acks=all`."""

    def send(self, record: Outgoing, acked: Acked) -> None:
        """Enqueue; `acked(None)` is called from `poll` or `flush` once the record is durable, else `acked(error)`.

        Raises BrokerUnavailable when the local queue is full. A record that can never be sent (too large, unknown
        topic) is reported through `acked` with an InputError or ConfigError.
        """
        ...

    def poll(self, timeout: float = 0.0) -> int:
        """Serve callbacks; how many.

        Records may linger so that full requests are sent. Who waits has nothing to add: with a `timeout` all are sent
        at once, and it returns when all are acknowledged, at the latest after so many seconds.
        """
        ...

    def flush(self, timeout: float) -> int:
        """Wait until all is acknowledged or `timeout` seconds are over; how many are still unacknowledged."""
        ...

    def close(self) -> None: ...
