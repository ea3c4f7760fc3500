"""The broker in memory, with what brokers do to people: everything that Kafka may do to a record or to a member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from segue.errors import BrokerUnavailable
from segue.ids import saga_key
from segue.topics.broker import Acked, Outgoing, Partition, Polled, Record
from segue.topics.memory import MemoryBroker, MemoryConsumer
from segue.topics.partitioner import partition_of
from tests.simulation.odd_headers import oddly
from tests.simulation.oracles import Oracles, header
from tests.simulation.world import ASK, OFFSETS, POLL, SECOND, SEND, WIRE, Process, World

if TYPE_CHECKING:
    from segue.coordinator.store import StoredOffset
    from tests.simulation.database import Books

#: After this long without a sign of life the broker gives a member's partitions to others.
SESSION = 6 * SECOND
#: How much later a record arrives that somebody sends once more, or holds back.
DELAYS = (300_000, 2 * SECOND, 6 * SECOND, 20 * SECOND)

_partition_of = lru_cache(4096)(partition_of)


class SimBroker(MemoryBroker):
    """Tells the oracles and wakes the readers."""

    def __init__(self, world: World, oracles: Oracles, *, partitions: int) -> None:
        super().__init__(partitions=partitions, auto_create=True)
        self._world = world
        self.oracles = self._oracles = oracles
        self.members: list[SimConsumer] = []
        #: All that there have ever been.
        self.joined: list[SimConsumer] = []
        #: Keys of commands whose answers get lost till the system is healed: a silent service.
        self.muted: set[str] = set()
        #: Told of records that were acknowledged and are gone.
        self.lost: Callable[[Outgoing], None] = lambda record: None
        #: Those that were asked for so far.
        self.logs: dict[Partition, Any] = {}

    def log(self, partition: Partition) -> Any:
        """The same; it is asked for hundreds of times in a schedule."""
        log = self.logs.get(partition)
        if log is None:
            log = self.logs[partition] = super().log(partition)
        return log

    def append(self, record: Outgoing) -> Record:
        system = self._oracles.system
        if system.plan.odd_headers and record.topic.endswith(".replies") and not system.forging:
            record = oddly(record)
        topic = self.topic(record.topic)
        number = _partition_of(record.key, len(topic.logs)) if record.key is not None else 0
        log = topic.logs[number]
        stored = Record(
            topic=record.topic,
            partition=number,
            offset=log.end,
            key=record.key,
            value=record.value,
            headers=record.headers,
            timestamp_ms=self._world.now // 1000,
        )
        log.records.append(stored)
        self._oracles.appended(stored)
        if record.topic.endswith(".commands"):
            self._oracles.system.commanded(stored)
        source = topic.partitions[number]
        for member in self.members:
            if member.owns(source):
                self._world.wake(member.process, self._world.now + 1_000 + member.process.latency())
        return stored

    def told(self, topic: str) -> None:
        """Wake those who read `topic`."""
        now = self._world.now
        for member in self.members:
            if topic in member.subscription:
                self._world.wake(member.process, now + 1_000 + member.process.latency())

    def books_of(self, group: str) -> Books | None:
        """The database of the service whose workers are this group."""
        return self.oracles.system.books.get(group)

    def cut_tail(self, partition: Partition, count: int) -> int:
        """An unclean election: acknowledged records are gone, their offsets will be given again."""
        log = self.log(partition)
        lost = 0
        while lost < count and log.records:
            log.records.pop()
            lost += 1
        self.told(partition.topic)
        return lost

    def recreate(self, name: str) -> None:
        """Somebody deletes a topic and creates it again."""
        count = len(self.topic(name).logs)
        self.delete_topic(name)
        self.logs.clear()
        self.create_topic(name, count)
        self.told(name)


class SimConsumer(MemoryConsumer):
    """A member, which may go on reading what is not its any more."""

    def __init__(self, broker: SimBroker, group: str, process: Client) -> None:
        super().__init__(broker, group, process.world_observer, alone=False)
        self.process = process
        self._sim = broker
        #: Believes till then (virtual time) that it owns what it was assigned, whatever the group thinks.
        self.stubborn_until = 0
        #: The last poll did not come to its end: what it owns is not known.
        self.unsure = True
        #: It would not hear of the group's last change.
        self._refused = False
        broker.members.append(self)
        broker.joined.append(self)

    def poll(self, max_records: int, timeout: float) -> Polled:
        self.unsure = True
        if self.process.io(POLL):
            raise BrokerUnavailable("the broker did not answer")
        polled = super().poll(max_records, timeout)
        for record in polled.records:
            self.process.given[record.source, record.offset] = record
        self._sim.oracles.given(polled.records)
        self.unsure = False
        return polled

    def _rebalance(self) -> None:
        before = self._group.epoch
        self._refused = bool(self._positions) and self.process.world.now < self.stubborn_until
        if self._refused:
            return
        super()._rebalance()
        if self._group.epoch != before:
            self._tell_others()

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().end_offsets(topics)

    def readable_from(self, partition: Partition, offset: int) -> int | None:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().readable_from(partition, offset)

    def stable_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().stable_offsets(topics)

    def begin_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().begin_offsets(partitions)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().topic_ids(topics)

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        if self.process.io(ASK):
            raise BrokerUnavailable("the broker did not answer")
        return super().committed(partitions)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        if not self.process.io(OFFSETS):
            books = self._sim.books_of(self.group)
            if books is not None:
                for partition, offset in offsets.items():
                    if partition in self._positions:
                        self._sim.oracles.worker_read(books, partition, offset)
            known = self._sim.group(self.group).committed
            if any(offset < known.get(partition, 0) for partition, offset in offsets.items()):
                self.process.world.points["offsets_back"] += 1
            super().commit(offsets)

    def close(self) -> None:
        super().close()
        if self in self._sim.members:
            self._sim.members.remove(self)

    def expelled(self) -> None:
        """The broker has not heard of it for too long. It may own partitions that it took after it was expelled."""
        group = self._sim.group(self.group)
        if self in group.members or self in group.owners.values():
            self._sim.expel(self)
            self._tell_others()

    def _tell_others(self) -> None:
        for member in self._sim.members:
            if member.group == self.group and member is not self:
                self.process.world.wake(member.process, self.process.world.now + 1_000)

    def owns(self, partition: Partition) -> bool:
        """It reads it, and believes that it may."""
        return partition in self._positions

    @property
    def positions(self) -> Iterable[tuple[Partition, int]]:
        """What it owns, and how far it has read."""
        return self._positions.items()

    @property
    def behind(self) -> bool:
        """Records wait for it."""
        logs = self._sim.logs
        for partition, position in self._positions.items():
            log = logs.get(partition) or self._sim.log(partition)
            if position < log.stable:
                return True
        return False

    @property
    def stopped(self) -> bool:
        """Its last poll failed, or its owner has stumbled: what it reads next is not what it has read."""
        return self.unsure or bool(self._paused)

    @property
    def outdated(self) -> bool:
        """The group has changed without it, and its next poll is to find that out."""
        return bool(self.subscription) and (self._refused or self not in self._sim.group(self.group).members)

    def mistaken(self, stored: Mapping[tuple[str, Partition], StoredOffset]) -> bool:
        """What it reads was created again, and the stored offset is one of the old topic."""
        return any(p in self._positions and o.topic_id != self._sim.topic(p.topic).id for (_, p), o in stored.items())


class SimProducer:
    """The producer port: what is sent is transmitted in `poll`, record by record, each a boundary.

    Records linger for so many microseconds, unless whoever polls is willing to wait.
    """

    def __init__(self, broker: SimBroker, process: Process, linger_us: int = 0) -> None:
        self._broker = broker
        self._process = process
        self._linger_us = linger_us
        #: Records, who is to be told, and when each is sent at the latest.
        self._queued: list[tuple[Outgoing, Acked, int]] = []

    @property
    def lingering(self) -> bool:
        """Records wait for company."""
        return bool(self._queued)

    @property
    def oldest(self) -> Outgoing | None:
        """The record that has waited for longest."""
        return self._queued[0][0] if self._queued else None

    def send(self, record: Outgoing, acked: Acked) -> None:
        self._queued.append((record, acked, self._process.world.now + self._linger_us))

    def poll(self, timeout: float = 0.0) -> int:
        if not self._queued:
            return 0
        now = self._process.world.now
        queued, self._queued = self._queued, []
        told = 0
        for n, (record, acked, latest) in enumerate(queued):
            if latest > now and timeout <= 0:
                self._queued = queued[n:] + self._queued
                break
            try:
                error = self._transmit(record)
            except BaseException:
                self._queued = queued[n:] + self._queued
                raise
            if error is None:
                self._broker.oracles.acknowledged(record)
            acked(error)
            told += 1
        return told

    def flush(self, timeout: float) -> int:
        self.poll(timeout)
        return len(self._queued)

    def close(self) -> None:
        self._queued.clear()

    def _transmit(self, record: Outgoing) -> Exception | None:
        process, broker = self._process, self._broker
        fault = process.io(SEND)
        rate = process.world.wire_rate
        if fault is None and rate and process.stream.chance(rate):
            fault = WIRE[process.stream.pick(len(WIRE))]
            process.world.faults[fault] += 1
        if fault is None or fault == "kill.after_send":
            if not self._muted(record):
                broker.append(record)
            if fault is not None:
                process.die()
            return None
        if fault == "send.error":
            return BrokerUnavailable("not appended")
        if fault == "send.appended_error":
            broker.append(record)
            return BrokerUnavailable("appended, but nobody knows")
        if fault == "send.duplicate":
            broker.append(record)
            broker.append(record)
        elif fault == "send.lost":
            broker.lost(record)
        elif fault == "send.delayed":
            broker.lost(record)
            delay = DELAYS[process.stream.pick(len(DELAYS))]
            process.world.at(process.world.now + delay, lambda: broker.append(record))
        return None

    def _muted(self, record: Outgoing) -> bool:
        """Whether a silent service's answer gets lost here."""
        muted = self._broker.muted
        if not muted or not record.topic.endswith("replies"):
            return False
        # The coordinator of its topic, the saga of its key, the step that it echoes.
        coordinator = record.topic.removesuffix(".replies")
        key = saga_key(coordinator, (record.key or b"").decode(), header(record.headers, "ce_sagastep") or "")
        if key in muted:
            self._broker.lost(record)
        return key in muted


class Client(Process):
    """A process that talks to the broker."""

    world_observer: CountingObserver

    def latency(self) -> int:
        """Microseconds from a record's arrival to the turn that reads it."""
        raise NotImplementedError


class CountingObserver:
    """Counts the places that the product says it has come to."""

    def __init__(self, world: World) -> None:
        self._points = world.points

    def count(self, name: str, n: int = 1) -> None:
        self._points[name] += n

    def event(self, name: str, **fields: object) -> None:
        self._points["event." + name] += 1


def again(record: Record) -> Outgoing:
    """The record as somebody who sends it once more would produce it."""
    return Outgoing(topic=record.topic, key=record.key, value=record.value, headers=record.headers)


def damaged(record: Record, how: int) -> Outgoing:
    """The record after an accident: undecodable, without headers, with a meaningless outcome, cut short."""
    outgoing = again(record)
    match how:
        case 1:
            return msgspec.structs.replace(outgoing, value=b"\x00\xff{")
        case 2:
            return msgspec.structs.replace(outgoing, headers=())
        case 3:
            headers = [(n, b"perhaps" if n in ("ce_sagaoutcome", "ce_sagaaction") else v) for n, v in record.headers]
            return msgspec.structs.replace(outgoing, headers=tuple(headers))
        case _:
            return msgspec.structs.replace(outgoing, value=(record.value or b"")[:-1] + b",")
