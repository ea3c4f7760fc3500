"""The consumer port over librdkafka."""

# ruff: noqa: SLF001 - librdkafka's own error codes are public although their names begin with an underscore

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Consumer as _Consumer

from segue.clock import SYSTEM_CLOCK
from segue.observe import Observer, Silent
from segue.topics.broker import Partition, Polled, Record, Starts, Unreadable
from segue.topics.kafka.admin import KafkaAdmin
from segue.topics.kafka.errors import END, NOT_AUTHENTICATED, UNREADABLE, error_of, translated
from segue.topics.kafka.log import LOGGER
from segue.topics.kafka.probe import readable_from
from segue.topics.kafka.process import OwnProcess
from segue.topics.kafka.questions import QUESTION_TIMEOUT, partitions_of
from segue.topics.settings import KafkaSettings

_NOTHING = Polled()
#: Seconds that the group has to take the partitions back when a consumer is closed.
_LEAVE_PATIENCE = 5.0
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class KafkaConsumer:
    """The consumer port over librdkafka; one thread only. After a fatal error it goes on with a new client.

    With `group` None it joins no group: it takes all partitions of the topics at once, for a process that is alone.
    """

    def __init__(self, settings: KafkaSettings, *, group: str | None, observer: Observer | None = None) -> None:
        self._bootstrap = settings.bootstrap
        self._group = group
        self._observer = observer or Silent()
        self._process = OwnProcess()
        self._starts: Starts = lambda _assigned: {}
        self._revoked: Callable[[Sequence[Partition]], None] = lambda _partitions: None
        self._assigned: set[Partition] = set()
        self._paused: set[Partition] = set()
        #: Assigned, but where to begin is not known yet: held back, and asked for again by the next poll.
        self._unstarted: set[Partition] = set()
        #: Those of them that are paused for it: librdkafka keeps a pause over a new assignment.
        self._held: set[Partition] = set()
        self._failure: Exception | None = None
        #: The client is of no use any more: the next poll takes a new one.
        self._fatal: KafkaError | None = None
        self._topics: list[str] = []
        self._closing = False
        self._admin: KafkaAdmin | None = None
        self._asking: _Consumer | None = None
        self._settings = settings
        self._client = self._connect(settings.consumer(group))

    def subscribe(
        self, topics: Sequence[str], *, starts: Starts, revoked: Callable[[Sequence[Partition]], None]
    ) -> None:
        self._process.check()
        self._starts, self._revoked, self._topics = starts, revoked, list(topics)
        self._join()

    def poll(self, max_records: int, timeout: float) -> Polled:
        self._process.check()
        self._raise_failure()
        if self._fatal is not None:
            self._renew(self._fatal)
        if self._unstarted:
            self._start_again()
        try:
            first = self._client.poll(timeout)
            if first is None:
                self._raise_failure()
                return _NOTHING
            batch = [first]
            if max_records > 1:
                # Never with a timeout: `consume(n, t)` waits all of t unless n messages arrive.
                batch += self._client.consume(max_records - 1, 0)
        except KafkaException as exception:
            error = error_of(exception)
            self._note_fatal(error)
            raise translated(error, "reading", self._bootstrap) from exception
        return self._polled(batch)

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        self._process.check()
        self._restart({partition: offset for partition, offset in offsets.items() if partition in self._assigned})

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._process.check()
        owned = [partition for partition in partitions if partition in self._assigned]
        self._paused.update(owned)
        if owned:
            self._client.pause([TopicPartition(*partition) for partition in owned])

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._process.check()
        owned = [partition for partition in partitions if partition in self._paused]
        self._paused.difference_update(owned)
        started = [TopicPartition(*partition) for partition in owned if partition not in self._held]
        if started:
            self._client.resume(started)

    def assignment(self) -> frozenset[Partition]:
        return frozenset(self._assigned)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        # A commit for a partition that another member owns succeeds silently and rewinds it.
        owned = [TopicPartition(*p, offset) for p, offset in offsets.items() if p in self._assigned]
        if not owned or self._group is None:
            return
        self._process.check()
        try:
            self._client.commit(offsets=owned, asynchronous=True)
        except KafkaException as error:
            self._observer.event("offset.commit_refused", error=error_of(error).str())

    def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._process.check()
        if self._group is None or not partitions:
            return {}
        try:
            asked = [TopicPartition(*partition) for partition in partitions]
            answered = self._client.committed(asked, timeout=QUESTION_TIMEOUT)
        except KafkaException as error:
            raise translated(error_of(error), "asking for committed offsets", self._bootstrap) from error
        for p in answered:
            if p.error is not None:
                raise translated(p.error, f"asking for committed offsets of {p.topic}", self._bootstrap)
        return {Partition(p.topic, p.partition): p.offset for p in answered if p.offset >= 0}

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        self._process.check()
        return self._offsets(self._partitions(topics), OFFSET_END)

    def stable_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        self._process.check()
        client = _Consumer({**self._settings.consumer(None), "isolation.level": "read_committed"}, logger=LOGGER)
        try:
            return self._offsets(self._partitions(topics), OFFSET_END, client)
        finally:
            client.close()

    def readable_from(self, partition: Partition, offset: int) -> int | None:
        self._process.check()
        end = self._offsets([partition], OFFSET_END)[partition]
        return readable_from(dict(self._settings.consumer(None)), self._bootstrap, partition, offset, end)

    def begin_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._process.check()
        return self._offsets(partitions, OFFSET_BEGINNING)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        self._process.check()
        if self._admin is None:
            self._admin = KafkaAdmin(self._settings)
        return self._admin.topic_ids(topics)

    def close(self) -> None:
        self._process.check()
        if self._closing:
            return
        self._closing = True
        self._assigned.clear()
        if self._group is not None:
            self._leave(self._client)
        self._client.close()
        if self._asking is not None:
            self._asking.close()
        if self._admin is not None:
            self._admin.close()

    def _leave(self, client: _Consumer) -> None:
        """Give the partitions back before `close`.

        A revocation that is under way when librdkafka's `close` begins may never be answered: the call hangs for ever,
        and with it every thread of Python, for it holds the interpreter (librdkafka's issue 4884).
        """
        give_up = SYSTEM_CLOCK.monotonic() + _LEAVE_PATIENCE
        try:
            client.unsubscribe()
            while client.assignment() and SYSTEM_CLOCK.monotonic() < give_up:
                client.poll(0.05)
            client.poll(0)  # what else was under way
        except (KafkaException, RuntimeError) as error:
            self._observer.event("group.leave_failed", error=error)

    # -- records ---------------------------------------------------------------------------------------------------

    def _polled(self, batch: Sequence[Message]) -> Polled:
        records: list[Record] = []
        ended: dict[Partition, int] = {}
        unreadable: dict[Partition, Unreadable] = {}
        for message in batch:
            error = message.error()
            if error is not None:
                self._on_message_error(message, error, ended, unreadable)
                continue
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None and partition is not None and offset is not None  # noqa: PT018 - a consumed message
            if ended:
                ended.pop(Partition(topic, partition), None)
            headers: Any = message.headers()
            records.append(
                Record(
                    topic=topic,
                    partition=partition,
                    offset=offset,
                    key=message.key(),
                    value=message.value(),
                    headers=tuple(headers) if headers else (),
                    timestamp_ms=message.timestamp()[1],
                )
            )
        if self._unstarted:
            records = [record for record in records if record.source not in self._unstarted]
            ended = {partition: offset for partition, offset in ended.items() if partition not in self._unstarted}
        if not records and not ended and not unreadable:
            self._raise_failure()
        return (
            Polled(records=records, ended=ended, unreadable=unreadable)
            if unreadable
            else Polled(records=records, ended=ended)
        )

    def _on_message_error(
        self,
        message: Message,
        error: KafkaError,
        ended: dict[Partition, int],
        unreadable: dict[Partition, Unreadable],
    ) -> None:
        partition = Partition(message.topic() or "", message.partition() or 0)
        if error.code() == END:
            ended[partition] = message.offset() or 0
        elif error.code() in _OUT_OF_RANGE:
            self._observer.count("offset.reset")
            if partition in self._assigned:
                self._unstarted.add(partition)
        elif error.code() in UNREADABLE and partition in self._assigned:
            unreadable[partition] = Unreadable(offset=message.offset() or 0, problem=error.str())
        else:
            self._note_fatal(error)
            self._failure = translated(error, f"reading {partition.topic or 'Kafka'}", self._bootstrap)

    def _raise_failure(self) -> None:
        # Kept until no record of the same poll would be lost by raising.
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_error(self, error: KafkaError) -> None:
        self._note_fatal(error)
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, *NOT_AUTHENTICATED) or error.fatal():
            self._failure = translated(error, "reading", self._bootstrap)

    # -- the client -----------------------------------------------------------------------------------------------

    def _connect(self, properties: Mapping[str, Any]) -> _Consumer:
        try:
            return _Consumer({**properties, "error_cb": self._on_error}, logger=LOGGER)
        except KafkaException as error:
            raise translated(error_of(error), "kafka.properties", self._bootstrap) from error

    def _join(self) -> None:
        if self._group is None:
            alone = self._partitions(self._topics)
            self._assigned.update(alone)
            self._hold(self._client, alone)
        else:
            self._client.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )

    def _note_fatal(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal = error

    def _renew(self, error: KafkaError) -> None:
        # A static member is fenced for good where its commit meets a group coordinator that knows it by another name.
        # The new one is none: another process may have its id by now, and the two would fence each other for ever.
        self._observer.event("consumer.renewed", error=error.str())
        properties = {k: v for k, v in self._settings.consumer(self._group).items() if k != "group.instance.id"}
        old, client = self._client, self._connect(properties)
        self._leave(old)
        try:
            old.close()
        except (KafkaException, RuntimeError):
            pass  # it says once more that it is of no use
        # What the old one had to say at last is of no interest for the new one.
        self._client, self._fatal, self._failure = client, None, None
        lost = sorted(self._assigned)
        for kept in (self._assigned, self._paused, self._unstarted, self._held):
            kept.clear()
        try:
            if lost:
                self._revoked(lost)
        finally:
            self._join()

    # -- assignment ------------------------------------------------------------------------------------------------

    def _on_assign(self, client: _Consumer, given: list[TopicPartition]) -> None:
        assigned = [Partition(p.topic, p.partition) for p in given]
        self._assigned.update(assigned)
        offsets: Mapping[Partition, int] = {}
        try:
            offsets = self._starts(assigned) if assigned else {}
        except Exception as error:  # noqa: BLE001 - raised by poll; out of this callback librdkafka would pick offsets itself
            self._failure = error
            self._hold(client, assigned)
            return
        client.incremental_assign([TopicPartition(*p, offsets.get(p, OFFSET_BEGINNING)) for p in assigned])

    def _on_revoke(self, client: _Consumer, taken: list[TopicPartition]) -> None:
        """They are given back: as long as the owner is told so they are its own, and it may commit how far it got."""
        revoked = [Partition(p.topic, p.partition) for p in taken]
        self._tell_revoked(revoked)
        self._let_go(client, revoked)
        client.incremental_unassign(taken)

    def _on_lost(self, client: _Consumer, taken: list[TopicPartition]) -> None:
        """They may have another owner already: what is committed now would rewind it."""
        revoked = [Partition(p.topic, p.partition) for p in taken]
        self._let_go(client, revoked)
        self._tell_revoked(revoked)
        client.incremental_unassign(taken)

    def _tell_revoked(self, revoked: Sequence[Partition]) -> None:
        try:
            if revoked and not self._closing:
                self._revoked(revoked)
        except Exception as error:  # noqa: BLE001 - raised by poll, once librdkafka has let the partitions go
            self._failure = error

    def _let_go(self, client: _Consumer, revoked: Sequence[Partition]) -> None:
        self._assigned.difference_update(revoked)
        halted = [TopicPartition(*p) for p in revoked if p in self._paused or p in self._held]
        if halted:
            client.resume(halted)  # else they would stand still when they come back to this member
        self._paused.difference_update(revoked)
        self._held.difference_update(revoked)
        self._unstarted.difference_update(revoked)

    def _hold(self, client: _Consumer, partitions: Sequence[Partition]) -> None:
        self._unstarted.update(partitions)
        self._held.update(partitions)
        client.incremental_assign([TopicPartition(*p, OFFSET_END) for p in partitions])
        client.pause([TopicPartition(*p) for p in partitions])

    def _start_again(self) -> None:
        """Ask `starts` where to begin, and begin at the earliest record where that offset is not there."""
        partitions = sorted(self._unstarted)
        given = self._starts(partitions)
        earliest = self._offsets(partitions, OFFSET_BEGINNING)
        latest = self._offsets(partitions, OFFSET_END)
        begin: dict[Partition, int] = {}
        for partition in partitions:
            offset = given.get(partition)
            if offset is not None and not earliest[partition] <= offset <= latest[partition]:
                self._observer.event(
                    "offset.out_of_range",
                    topic=partition.topic,
                    partition=partition.number,
                    offset=offset,
                    earliest=earliest[partition],
                    latest=latest[partition],
                )
                offset = None
            begin[partition] = earliest[partition] if offset is None else offset
        self._unstarted.clear()
        self._restart(begin)

    def _restart(self, offsets: Mapping[Partition, int]) -> None:
        # Not `Consumer.seek`: that fails while a partition is not being fetched yet, or stands still after an error.
        if not offsets:
            return
        self._unstarted.difference_update(offsets)
        self._client.incremental_unassign([TopicPartition(*p) for p in offsets])
        self._client.incremental_assign([TopicPartition(*p, offset) for p, offset in offsets.items()])
        released = [TopicPartition(*p) for p in offsets if p in self._held and p not in self._paused]
        self._held.difference_update(offsets)
        if released:
            self._client.resume(released)

    # -- questions -------------------------------------------------------------------------------------------------

    def _partitions(self, topics: Sequence[str]) -> list[Partition]:
        return [Partition(t, n) for t in topics for n in partitions_of(self._asker(), t, self._bootstrap)]

    def _asker(self) -> _Consumer:
        """A client that reads nothing: Kafka answers a connection in order, so that a question waits behind a fetch."""
        if self._asking is None:
            # To one who reads what is committed Kafka tells as the end where the first open transaction begins.
            properties = {**self._settings.consumer(None), "isolation.level": "read_uncommitted"}
            self._asking = _Consumer(properties, logger=LOGGER)
        self._asking.poll(0)  # nothing but its log lines, which would pile up
        return self._asking

    def _offsets(
        self, partitions: Sequence[Partition], which: int, client: _Consumer | None = None
    ) -> dict[Partition, int]:
        # ListOffsets takes -1 and -2 as times, too: one request per broker instead of one per partition.
        asked = [TopicPartition(*partition, which) for partition in partitions]
        if not asked:
            return {}
        try:
            answered = (client or self._asker()).offsets_for_times(asked, timeout=QUESTION_TIMEOUT)
        except KafkaException as error:
            raise translated(error_of(error), "asking for offsets", self._bootstrap) from error
        for p in answered:
            if p.error is not None:
                raise translated(p.error, f"asking for offsets of {p.topic}", self._bootstrap)
        return {Partition(p.topic, p.partition): p.offset for p in answered}
