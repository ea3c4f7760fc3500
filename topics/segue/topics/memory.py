"""A broker in memory for tests and the simulator: single-threaded, deterministic, and it never waits.

Time-outs return at once. Nothing happens but inside a call: a producer's records reach their topics in `transmit`,
`poll` or `flush`; a rebalance reaches a consumer in its next `poll`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from segue.errors import BrokerUnavailable, ConfigError, RejectedRecord
from segue.observe import Observer, Silent
from segue.topics.admin import TopicSpec, TopicState
from segue.topics.broker import Acked, Outgoing, Partition, Polled, Record, Starts, Unreadable
from segue.topics.names import is_legal
from segue.topics.partitioner import partition_of

#: Kafka's default of max.message.bytes, about.
MAX_MESSAGE_BYTES = 1_000_000
#: librdkafka's default of queue.buffering.max.messages.
MAX_QUEUED = 100_000


@dataclass(slots=True)
class _Log:
    """One partition; `begin` is the offset of the first record still there."""

    begin: int = 0
    #: None is what takes an offset and is never given to a reader: the mark that ends a transaction, and each record of
    #: one that was aborted.
    records: deque[Record | None] = field(default_factory=deque)
    #: The first offset of each transaction that is open.
    open: dict[MemoryTransaction, int] = field(default_factory=dict)
    #: Offsets of records that no client can read.
    damaged: set[int] = field(default_factory=set)

    @property
    def end(self) -> int:
        return self.begin + len(self.records)

    @property
    def stable(self) -> int:
        """How far it can be read."""
        return min(self.end, *self.open.values()) if self.open else self.end

    def read(self, offset: int, most: int) -> list[Record]:
        """The records of the `most` offsets from `offset` on, as far as they can be read."""
        first = offset - self.begin
        found = range(first, min(first + most, self.readable(offset) - self.begin))
        return [record for i in found if (record := self.records[i]) is not None]

    def readable(self, offset: int) -> int:
        """How far it can be read from `offset` on."""
        return min([self.stable, *(at for at in self.damaged if at >= offset)]) if self.damaged else self.stable

    def unread(self, offset: int) -> list[Record]:
        """All records from `offset` on, those of open transactions, too."""
        first = max(0, offset - self.begin)
        return [record for i in range(first, len(self.records)) if (record := self.records[i]) is not None]

    def forget(self, record: Record) -> None:
        """The record was aborted; by now another one may be at its offset."""
        place = record.offset - self.begin
        if 0 <= place < len(self.records) and self.records[place] is record:
            self.records[place] = None


@dataclass(slots=True)
class _Topic:
    id: str
    logs: list[_Log]
    configs: Mapping[str, str]
    partitions: Sequence[Partition]
    next_keyless: int = 0


@dataclass(slots=True)
class _Group:
    """Members in the order of joining; a partition changes hands only once its owner has let it go, or was expelled."""

    members: list[MemoryConsumer] = field(default_factory=list)
    owners: dict[Partition, MemoryConsumer] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    #: Grows with every change of members, owners and topics: while it stands, no member has to rebalance.
    epoch: int = 0


class MemoryBroker:
    """Topics and groups in memory; `consumer(group)` and `producer()` make clients.

    With `auto_create` a topic appears with `partitions` partitions when it is first used, as on the embedded broker.
    `now` gives the timestamps of records, in milliseconds.
    """

    def __init__(self, *, partitions: int = 4, auto_create: bool = True, now: Callable[[], int] = lambda: 0) -> None:
        self._partitions = partitions
        self._auto_create = auto_create
        self._now = now
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._created = 0
        self._alone = 0
        #: While True every request fails with BrokerUnavailable and nothing is transmitted.
        self.down = False

    def consumer(self, group: str | None, *, observer: Observer | None = None) -> MemoryConsumer:
        """A new member of `group`; without one it takes all partitions."""
        self._alone += group is None
        name = f"alone-{self._alone}" if group is None else group
        return MemoryConsumer(self, name, observer or Silent(), alone=group is None)

    def producer(self) -> MemoryProducer:
        """A new producer."""
        return MemoryProducer(self)

    def damage(self, record: Record) -> None:
        """From now on nobody can read this record: as if it were packed in a way that no client knows."""
        self.log(record.source).damaged.add(record.offset)

    def transaction(self) -> MemoryTransaction:
        """A transaction of another producer: Kafka has its records, and nobody gets them before it is committed."""
        return MemoryTransaction(self)

    def create_topic(self, name: str, partitions: int | None = None, configs: Mapping[str, str] | None = None) -> None:
        """Make an empty topic, unless it is there."""
        if name not in self._topics:
            self._created += 1
            logs = [_Log() for _ in range(partitions or self._partitions)]
            numbered = [Partition(name, number) for number in range(len(logs))]
            self._topics[name] = _Topic(
                id=f"topic-{self._created}", logs=logs, configs=configs or {}, partitions=numbered
            )
            self._changed(name)

    def delete_topic(self, name: str) -> None:
        """Forget the topic and its records; created again it has another id."""
        self._topics.pop(name, None)
        self._changed(name)

    def _changed(self, topic: str) -> None:
        """The groups that read this topic have something to share out anew."""
        for group in self._groups.values():
            group.epoch += any(topic in member.subscription for member in group.members)

    def truncate(self, partition: Partition, before: int) -> None:
        """Retention: forget the records below the offset `before`."""
        log = self.log(partition)
        while log.begin < before and log.records:
            log.records.popleft()
            log.begin += 1

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, by partition and offset."""
        return [record for log in self.topic(topic).logs for record in log.records if record is not None]

    def committed(self, group: str) -> Mapping[Partition, int]:
        """The offsets that the group has committed."""
        return dict(self.group(group).committed)

    def expel(self, consumer: MemoryConsumer) -> None:
        """Session timeout: others may own its partitions, while it believes until its next poll that it does."""
        group = self.group(consumer.group)
        group.epoch += 1
        if consumer in group.members:
            group.members.remove(consumer)
        for partition in [p for p, owner in group.owners.items() if owner is consumer]:
            del group.owners[partition]

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """The admin port's description of those of `names` that exist."""
        self.check_up()
        return {
            name: TopicState(name=name, partitions=len(t.logs), replication=1, id=t.id, configs=t.configs)
            for name in names
            if (t := self._topics.get(name)) is not None
        }

    def create(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """The admin port's creation of topics."""
        self.check_up()
        missing = [spec for spec in specs if spec.name not in self._topics]
        for spec in missing:
            self.create_topic(spec.name, spec.partitions, spec.configs)
        return [spec.name for spec in missing]

    def append(self, record: Outgoing) -> Record:
        """Write one record now, as a foreign producer would."""
        topic = self.topic(record.topic)
        count = len(topic.logs)
        if record.key is None:
            # In turn, where Kafka's choice is random: the same run must give the same partitions.
            number, topic.next_keyless = topic.next_keyless, (topic.next_keyless + 1) % count
        else:
            number = partition_of(record.key, count)
        log = topic.logs[number]
        stored = Record(
            topic=record.topic,
            partition=number,
            offset=log.end,
            key=record.key,
            value=record.value,
            headers=record.headers,
            timestamp_ms=self._now(),
        )
        log.records.append(stored)
        return stored

    def told(self, topic: str) -> None:
        """There is something new to read in `topic`, though no record was written."""

    def topic(self, name: str) -> _Topic:
        """The topic, made now if that is allowed. Raises ConfigError."""
        topic = self._topics.get(name)
        if topic is None:
            if not self._auto_create:
                raise ConfigError(f"topic {name!r}: no such topic; create it with `segue topics create`")
            self.create_topic(name)
            topic = self._topics[name]
        return topic

    def log(self, partition: Partition) -> _Log:
        """One partition of a topic. Raises ConfigError where it does not exist."""
        logs = self.topic(partition.topic).logs
        if not 0 <= partition.number < len(logs):
            raise ConfigError(f"topic {partition.topic!r} has no partition {partition.number}")
        return logs[partition.number]

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """All partitions of these topics, in order."""
        return [partition for topic in sorted(topics) for partition in self.topic(topic).partitions]

    def group(self, name: str) -> _Group:
        """The group of that name."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group()
        return group

    def check_up(self) -> None:
        """Raise BrokerUnavailable while the broker is `down`."""
        if self.down:
            raise BrokerUnavailable("the broker in memory is down")


class MemoryTransaction:
    """What another producer writes, all of it or nothing; until `commit` or `abort` nobody reads on behind it."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._written: list[tuple[_Log, Record]] = []

    def append(self, record: Outgoing) -> Record:
        """Write one record; as stored."""
        stored = self._broker.append(record)
        log = self._broker.log(stored.source)
        log.open.setdefault(self, stored.offset)
        self._written.append((log, stored))
        return stored

    def commit(self) -> None:
        """Let everybody read it."""
        self._end()

    def abort(self) -> None:
        """Let nobody ever read it."""
        for log, record in self._written:
            log.forget(record)
        self._end()

    def _end(self) -> None:
        written, self._written = self._written, []
        for log, record in written:
            if self in log.open:
                del log.open[self]
                log.records.append(None)
                self._broker.told(record.topic)


class MemoryConsumer:
    """The consumer port over a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, group: str, observer: Observer, *, alone: bool) -> None:
        self._broker = broker
        self._observer = observer
        self._starts: Starts = lambda _assigned: {}
        self._revoked: Callable[[Sequence[Partition]], None] = lambda _partitions: None
        self._positions: dict[Partition, int] = {}
        #: What has a position, in order.
        self._order: list[Partition] = []
        self._paused: set[Partition] = set()
        #: The end that was reported last, per partition: an end is reported once.
        self._told_end: dict[Partition, int] = {}
        self._turn = 0
        #: The group's epoch in which this member has what it is to have.
        self._settled = -1
        self._group = broker.group(group)
        self.subscription: frozenset[str] = frozenset()
        #: The group's name; a consumer without one is a group by itself.
        self.group = group
        self._alone = alone

    def subscribe(
        self, topics: Sequence[str], *, starts: Starts, revoked: Callable[[Sequence[Partition]], None]
    ) -> None:
        self._starts, self._revoked = starts, revoked
        self.subscription = frozenset(topics)
        self._settled = -1
        self._join()

    def poll(self, max_records: int, timeout: float) -> Polled:
        self._broker.check_up()
        self._rebalance()
        records: list[Record] = []
        ended: dict[Partition, int] = {}
        unreadable: dict[Partition, Unreadable] = {}
        order, paused = self._order, self._paused
        self._turn += 1
        for i in range(self._turn, self._turn + len(order)):
            partition = order[i % len(order)]
            if partition not in paused:
                self._fetch(partition, max_records, records, ended)
                log = self._broker.log(partition)
                if log.damaged and self._positions[partition] in log.damaged:
                    at = self._positions[partition]
                    unreadable[partition] = Unreadable(offset=at, problem="damaged")
        return Polled(records=records, ended=ended, unreadable=unreadable)

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            if partition in self._positions:
                self._positions[partition] = offset
                self._told_end.pop(partition, None)

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._paused.update(partition for partition in partitions if partition in self._positions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._paused.difference_update(partitions)

    def assignment(self) -> frozenset[Partition]:
        return frozenset(self._positions)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        if not self._broker.down and not self._alone:
            owned = {p: offset for p, offset in offsets.items() if p in self._positions}
            self._broker.group(self.group).committed.update(owned)

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._broker.check_up()
        kept = {} if self._alone else self._broker.committed(self.group)
        return {partition: kept[partition] for partition in partitions if partition in kept}

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        self._broker.check_up()
        return {partition: self._broker.log(partition).end for partition in self._broker.partitions(topics)}

    def readable_from(self, partition: Partition, offset: int) -> int | None:
        self._broker.check_up()
        log = self._broker.log(partition)
        if offset not in log.damaged:
            return offset if log.read(offset, 1) else None
        beyond = [at for at in range(offset + 1, log.stable) if at not in log.damaged]
        return offset + 1 if any(log.read(at, 1) for at in beyond) else None

    def stable_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        self._broker.check_up()
        return {partition: self._broker.log(partition).stable for partition in self._broker.partitions(topics)}

    def begin_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._broker.check_up()
        return {partition: self._broker.log(partition).begin for partition in partitions}

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        found = self._broker.topics(topics)
        return {topic: found[topic].id if topic in found else "" for topic in topics}

    def close(self) -> None:
        self._broker.expel(self)
        self._positions.clear()
        self._order = []
        self._paused.clear()
        self.subscription = frozenset()

    def _join(self) -> None:
        if self not in self._group.members:
            self._group.members.append(self)
            self._group.epoch += 1

    def _rebalance(self) -> None:
        """Let go of what is no longer ours, then take what is ours and free."""
        group = self._group
        if not self.subscription or self._settled == group.epoch:
            return
        owned = {p for p in self._positions if group.owners.get(p) is self}
        self._join()
        seen = group.epoch
        target = self._target(group)
        lost = sorted(p for p in self._positions if p not in target or p not in owned)
        # What others may have already is not its own any more: nothing is committed for it.
        self._let_go([p for p in lost if p not in owned], group)
        if lost:
            try:
                self._revoked(lost)
            finally:
                self._let_go(lost, group)
                self._order = sorted(self._positions)
                # Not before: who looked during the callback has settled for what was free by then.
                group.epoch += 1
                seen += 1
        gained = [p for p in target if p not in self._positions and p not in group.owners]
        if gained:
            offsets = self._starts(gained)
            for partition in gained:
                group.owners[partition] = self
                self._positions[partition] = offsets.get(partition, self._broker.log(partition).begin)
            self._order = sorted(self._positions)
            group.epoch += 1
            seen += 1
        # Not settled if others have changed something during the callbacks.
        self._settled = seen

    def _let_go(self, partitions: Sequence[Partition], group: _Group) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._paused.discard(partition)
            self._told_end.pop(partition, None)
            if group.owners.get(partition) is self:
                del group.owners[partition]

    def _target(self, group: _Group) -> list[Partition]:
        """The share of this member: partition i of the members' topics goes to member i modulo their number."""
        mine: list[Partition] = []
        for topic in sorted(self.subscription):
            members = [member for member in group.members if topic in member.subscription]
            share = members.index(self)
            mine += [p for p in self._broker.partitions([topic]) if p.number % len(members) == share]
        return mine

    def _fetch(self, partition: Partition, most: int, records: list[Record], ended: dict[Partition, int]) -> None:
        log = self._broker.log(partition)
        position = self._positions[partition]
        if position == log.begin + len(log.records) == self._told_end.get(partition):
            return
        if not log.begin <= position <= log.end:
            position = self._positions[partition] = self._restarted(partition, log)
        stable, room = log.readable(position), most - len(records)
        records += log.read(position, room)
        position = self._positions[partition] = max(position, min(position + room, stable))
        if position == stable == log.stable and self._told_end.get(partition) != position:
            self._told_end[partition] = position
            ended[partition] = position

    def _restarted(self, partition: Partition, log: _Log) -> int:
        self._observer.count("offset.reset")
        offset = self._starts([partition]).get(partition)
        if offset is not None and log.begin <= offset <= log.end:
            return offset
        if offset is not None:
            self._observer.event(
                "offset.out_of_range",
                topic=partition.topic,
                partition=partition.number,
                offset=offset,
                earliest=log.begin,
                latest=log.end,
            )
        return log.begin


class MemoryProducer:
    """The producer port over a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queued: deque[tuple[Outgoing, Acked]] = deque()
        self._answered: deque[tuple[Acked, Exception | None]] = deque()

    def send(self, record: Outgoing, acked: Acked) -> None:
        if len(self._queued) >= MAX_QUEUED:
            raise BrokerUnavailable(f"the producer's queue is full ({MAX_QUEUED} records); poll it")
        size = len(record.key or b"") + len(record.value or b"")
        if not is_legal(record.topic):
            error = RejectedRecord(f"sending to {record.topic!r:.300}: no topic can have that name")
            self._answered.append((acked, error))
        elif size > MAX_MESSAGE_BYTES:
            error = RejectedRecord(f"sending to {record.topic}: {size} bytes, allowed are {MAX_MESSAGE_BYTES}")
            self._answered.append((acked, error))
        else:
            self._queued.append((record, acked))

    def transmit(self) -> None:
        """Write what is queued, and tell nobody yet: a producer lost now has written without knowing it."""
        while self._queued and not self._broker.down:
            record, acked = self._queued.popleft()
            try:
                self._broker.append(record)
                self._answered.append((acked, None))
            except ConfigError as error:
                self._answered.append((acked, error))

    def poll(self, timeout: float = 0.0) -> int:
        self.transmit()
        return self._tell()

    def flush(self, timeout: float) -> int:
        self.poll()
        return len(self._queued)

    def close(self) -> None:
        """Give up what is not written yet (`acked` hears of it)."""
        while self._queued:
            record, acked = self._queued.popleft()
            self._answered.append((acked, BrokerUnavailable(f"sending to {record.topic}: the producer was closed")))
        self._tell()

    def _tell(self) -> int:
        told = 0
        while self._answered:
            acked, error = self._answered.popleft()
            acked(error)
            told += 1
        return told
