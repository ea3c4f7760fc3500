"""Kafka through confluent-kafka: the only module that imports the client.

librdkafka is not fork-safe: a client belongs to the process that made it, and says so when used from another one.
"""
# ruff: noqa: SLF001 - librdkafka's own error codes are public although their names begin with an underscore

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Consumer as _Consumer
from confluent_kafka import Producer as _Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from segue.errors import BrokerUnavailable, ConfigError, RejectedRecord, SegueError, UsageError
from segue.observe import Observer, Silent
from segue.topics.admin import TopicSpec, TopicState
from segue.topics.broker import Acked, Outgoing, Partition, Polled, Record, Starts
from segue.topics.kafka_log import LOGGER
from segue.topics.settings import KafkaSettings

#: Seconds that a question to the broker (offsets, metadata) may take.
QUESTION_TIMEOUT = 10.0
_NOTHING = Polled()
_EOF: int = KafkaError._PARTITION_EOF
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_NOT_AUTHORISED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
_NOT_AUTHENTICATED = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
)
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_BAD_SETTING = (
    KafkaError._INVALID_ARG,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._SSL,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.UNSUPPORTED_ASSIGNOR,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.INVALID_GROUP_ID,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REQUIRED_ACKS,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.POLICY_VIOLATION,
)
_BAD_RECORD = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
)


def translated(error: KafkaError, what: str, bootstrap: str) -> SegueError:
    """The exception of Segue's own tree that says what to do about `error`; `what` was being done."""
    code, text = error.code(), error.str()
    if code in _NOT_AUTHORISED:
        return ConfigError(f"{what}: Kafka refuses ({text}); grant the ACL to this user")
    if code in _NOT_AUTHENTICATED:
        return ConfigError(f"{what}: Kafka at {bootstrap} refuses the credentials ({text}); see kafka.properties")
    if code in _NO_TOPIC:
        return ConfigError(f"{what}: no such topic or partition ({text}); create it with `segue topics create`")
    if code in _BAD_SETTING:
        return ConfigError(f"{what}: {text}; librdkafka's CONFIGURATION.md says what is allowed")
    if code in _BAD_RECORD:
        return RejectedRecord(
            f"{what}: {text}; the limits are message.max.bytes here and max.message.bytes of the topic"
        )
    return BrokerUnavailable(f"{what}: {text} (Kafka at {bootstrap})")


def error_of(exception: KafkaException) -> KafkaError:
    """The KafkaError that a KafkaException carries."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


class _OwnProcess:
    """Refuses to work in a forked child."""

    __slots__ = ("_forks", "_pid")

    #: Forks that lie between this process and the first one: counted in the child, as asking for the process's id is a
    #: system call, and that for each record.
    forks = 0

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._forks = _OwnProcess.forks

    def check(self) -> None:
        if self._forks != _OwnProcess.forks:
            raise UsageError(
                f"this Kafka client belongs to process {self._pid}, it can't be used in {os.getpid()}: "
                "make it after the fork"
            )


def _forked() -> None:
    _OwnProcess.forks += 1


os.register_at_fork(after_in_child=_forked)


class KafkaConsumer:
    """The consumer port over librdkafka; one thread only.

    With `group` None it joins no group: it takes all partitions of the topics at once, for a process that is alone.
    """

    def __init__(self, settings: KafkaSettings, *, group: str | None, observer: Observer | None = None) -> None:
        self._bootstrap = settings.bootstrap
        self._group = group
        self._observer = observer or Silent()
        self._process = _OwnProcess()
        self._starts: Starts = lambda _assigned: {}
        self._revoked: Callable[[Sequence[Partition]], None] = lambda _partitions: None
        self._assigned: set[Partition] = set()
        self._paused: set[Partition] = set()
        #: Assigned, but where to begin is not known yet: held back, and asked for again by the next poll.
        self._unstarted: set[Partition] = set()
        #: Those of them that are paused for it: librdkafka keeps a pause over a new assignment.
        self._held: set[Partition] = set()
        self._failure: Exception | None = None
        self._closing = False
        self._admin: KafkaAdmin | None = None
        self._asking: _Consumer | None = None
        self._settings = settings
        try:
            self._client = _Consumer({**settings.consumer(group), "error_cb": self._on_error}, logger=LOGGER)
        except KafkaException as error:
            raise translated(error_of(error), "kafka.properties", settings.bootstrap) from error

    def subscribe(
        self, topics: Sequence[str], *, starts: Starts, revoked: Callable[[Sequence[Partition]], None]
    ) -> None:
        self._process.check()
        self._starts, self._revoked = starts, revoked
        if self._group is None:
            alone = self._partitions(topics)
            self._assigned.update(alone)
            self._hold(self._client, alone)
        else:
            self._client.subscribe(
                list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )

    def poll(self, max_records: int, timeout: float) -> Polled:
        self._process.check()
        self._raise_failure()
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
        except KafkaException as error:
            raise translated(error_of(error), "reading", self._bootstrap) from error
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
        self._client.close()
        if self._asking is not None:
            self._asking.close()
        if self._admin is not None:
            self._admin.close()

    # -- records ---------------------------------------------------------------------------------------------------

    def _polled(self, batch: Sequence[Message]) -> Polled:
        records: list[Record] = []
        ended: dict[Partition, int] = {}
        for message in batch:
            error = message.error()
            if error is not None:
                self._on_message_error(message, error, ended)
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
        if not records and not ended:
            self._raise_failure()
        return Polled(records=records, ended=ended)

    def _on_message_error(self, message: Message, error: KafkaError, ended: dict[Partition, int]) -> None:
        partition = Partition(message.topic() or "", message.partition() or 0)
        if error.code() == _EOF:
            ended[partition] = message.offset() or 0
        elif error.code() in _OUT_OF_RANGE:
            self._observer.count("offset.reset")
            if partition in self._assigned:
                self._unstarted.add(partition)
        else:
            self._failure = translated(error, f"reading {partition.topic or 'Kafka'}", self._bootstrap)

    def _raise_failure(self) -> None:
        # Kept until no record of the same poll would be lost by raising.
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, *_NOT_AUTHENTICATED) or error.fatal():
            self._failure = translated(error, "reading", self._bootstrap)

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
        revoked = [Partition(p.topic, p.partition) for p in taken]
        self._assigned.difference_update(revoked)
        halted = [TopicPartition(*p) for p in revoked if p in self._paused or p in self._held]
        if halted:
            client.resume(halted)  # else they would stand still when they come back to this member
        self._paused.difference_update(revoked)
        self._held.difference_update(revoked)
        self._unstarted.difference_update(revoked)
        try:
            if revoked and not self._closing:
                self._revoked(revoked)
        except Exception as error:  # noqa: BLE001 - raised by poll, once librdkafka has let the partitions go
            self._failure = error
        client.incremental_unassign(taken)

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
            self._asking = _Consumer(dict(self._settings.consumer(None)), logger=LOGGER)
        self._asking.poll(0)  # nothing but its log lines, which would pile up
        return self._asking

    def _offsets(self, partitions: Sequence[Partition], which: int) -> dict[Partition, int]:
        # ListOffsets takes -1 and -2 as times, too: one request per broker instead of one per partition.
        asked = [TopicPartition(*partition, which) for partition in partitions]
        if not asked:
            return {}
        try:
            answered = self._asker().offsets_for_times(asked, timeout=QUESTION_TIMEOUT)
        except KafkaException as error:
            raise translated(error_of(error), "asking for offsets", self._bootstrap) from error
        for p in answered:
            if p.error is not None:
                raise translated(p.error, f"asking for offsets of {p.topic}", self._bootstrap)
        return {Partition(p.topic, p.partition): p.offset for p in answered}


def partitions_of(client: Any, topic: str, bootstrap: str, timeout: float = QUESTION_TIMEOUT) -> list[int]:
    """The numbers of the partitions of `topic`, asked of the broker now. Raises ConfigError where it does not exist."""
    try:
        found = client.list_topics(topic, timeout=timeout).topics[topic]
    except KafkaException as error:
        raise translated(error_of(error), f"asking for {topic}", bootstrap) from error
    if found.error is not None:
        raise translated(found.error, f"topic {topic!r}", bootstrap)
    return sorted(found.partitions)


class KafkaProducer:
    """The producer port over librdkafka; one thread only. After a fatal error it goes on with a new client."""

    def __init__(self, settings: KafkaSettings, *, observer: Observer | None = None) -> None:
        self._settings = settings
        self._observer = observer or Silent()
        self._process = _OwnProcess()
        self._refused: deque[tuple[Acked, SegueError]] = deque()
        self._fatal: KafkaError | None = None
        self._closed = False
        #: Records handed to the client that are not acknowledged yet; its own length counts its errors, too.
        self._waiting = 0
        self._client = self._connect()

    def send(self, record: Outgoing, acked: Acked) -> None:
        self._process.check()
        try:
            self._produce(record, acked)
        except KafkaException as exception:
            error = error_of(exception)
            if error.fatal() or error.code() == KafkaError._FATAL:
                self._fatal = error
                self._refused.append((acked, BrokerUnavailable(f"sending to {record.topic}: {error.str()}")))
            else:
                self._refused.append((acked, translated(error, f"sending to {record.topic}", self._settings.bootstrap)))
        except BufferError:
            raise BrokerUnavailable(
                f"the producer's queue is full, {self._waiting} records wait for Kafka at "
                f"{self._settings.bootstrap}; poll it, or raise queue.buffering.max.messages"
            ) from None

    def poll(self, timeout: float = 0.0) -> int:
        self._process.check()
        waiting, told = self._waiting, self._tell_refused()
        if timeout > 0 and waiting and not told:
            # While it is flushed librdkafka lets no record linger; `linger.ms` itself can't be changed at runtime.
            self._client.flush(timeout)
            told = waiting - self._waiting
        else:
            told += self._client.poll(0 if told else timeout)
        if self._fatal is not None:
            self._renew(self._fatal)
        return told

    def flush(self, timeout: float) -> int:
        self._process.check()
        self._tell_refused()
        self._client.flush(timeout)
        if self._fatal is not None:
            self._renew(self._fatal)
        return self._waiting

    def close(self) -> None:
        """Give up what is not acknowledged yet (`acked` hears of it) and disconnect."""
        self._process.check()
        self._tell_refused()
        if not self._closed:
            self._closed = True
            _discard(self._client)

    def _produce(self, record: Outgoing, acked: Acked) -> None:
        topic = record.topic

        def delivered(error: KafkaError | None, _message: Message) -> None:
            self._waiting -= 1
            if error is None:
                acked(None)
            else:
                acked(translated(error, f"sending to {topic}", self._settings.bootstrap))

        headers = list(record.headers)
        self._client.produce(topic, record.value, record.key, headers=headers, on_delivery=delivered)  # type: ignore[arg-type]
        self._waiting += 1

    def _connect(self) -> _Producer:
        try:
            return _Producer({**self._settings.producer(), "error_cb": self._on_error}, logger=LOGGER)
        except KafkaException as error:
            raise translated(error_of(error), "kafka.properties", self._settings.bootstrap) from error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error

    def _tell_refused(self) -> int:
        told = 0
        while self._refused:
            acked, error = self._refused.popleft()
            acked(error)
            told += 1
        return told

    def _renew(self, error: KafkaError) -> None:
        self._observer.event("producer.renewed", error=error.str())
        self._fatal = None
        old, self._client = self._client, self._connect()
        _discard(old)


def _discard(client: _Producer) -> None:
    client.purge()
    client.flush(1)
    client.close()


class KafkaAdmin:
    """Preflight checks, topic descriptions and creation. Every call ends within its timeout."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._bootstrap = settings.bootstrap
        self._process = _OwnProcess()
        self._last_error = ""
        try:
            config: dict[str, Any] = {**settings.admin(), "error_cb": self._on_error}
            self._client = AdminClient(config, logger=LOGGER)
        except KafkaException as error:
            raise translated(error_of(error), "kafka.properties", settings.bootstrap) from error

    def check(self, timeout: float = 5.0, topics: Sequence[str] = ()) -> None:
        """Return if Kafka answers and has these topics.

        Raises BrokerUnavailable naming the address where it does not answer within `timeout` seconds, ConfigError
        naming the topics that are missing.
        """
        found = self._metadata(timeout).topics
        missing = sorted(topic for topic in topics if topic not in found)
        if missing:
            names = ", ".join(missing)
            raise ConfigError(f"Kafka at {self._bootstrap} has no topic {names}; create it with `segue topics create`")

    def topic_exists(self, topic: str, timeout: float = 5.0) -> bool:
        """Whether there is such a topic; never creates it."""
        return topic in self._metadata(timeout).topics

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        metadata = self._metadata(QUESTION_TIMEOUT)
        there = [name for name in names if name in metadata.topics]
        administrable = _has_controller(metadata)
        ids = self._describe(there) if administrable else {}
        configs = self._configs(there) if administrable else {}
        return {
            name: TopicState(
                name=name,
                partitions=len(metadata.topics[name].partitions),
                replication=min((len(p.replicas) for p in metadata.topics[name].partitions.values()), default=0),
                id=ids.get(name, ""),
                configs=configs.get(name, {}),
            )
            for name in there
        }

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """The ids of those topics; "" for one that is not there, and where the broker tells no ids."""
        metadata = self._metadata(QUESTION_TIMEOUT)
        # The embedded broker has no controller: librdkafka would wait for one until the request's timeout.
        ids = self._describe([t for t in topics if t in metadata.topics]) if _has_controller(metadata) else {}
        return {topic: ids.get(topic, "") for topic in topics}

    def create(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        if not specs:
            return []
        metadata = self._metadata(QUESTION_TIMEOUT)
        if not _has_controller(metadata):
            for spec in specs:
                # The embedded broker creates a topic when it is asked about it, with four partitions.
                partitions_of(self._client, spec.name, self._bootstrap)
            return [spec.name for spec in specs if spec.name not in metadata.topics]
        wanted = [
            NewTopic(s.name, num_partitions=s.partitions, replication_factor=s.replication, config=dict(s.configs))
            for s in specs
        ]
        created = []
        for name, future in self._client.create_topics(wanted, request_timeout=QUESTION_TIMEOUT).items():
            try:
                self._answer(future, f"creating topic {name}")
            except _AlreadyThere:
                continue
            created.append(name)
        return created

    def delete(self, names: Sequence[str]) -> None:
        """Delete topics with all their records; those that are not there are no error."""
        known = self._metadata(QUESTION_TIMEOUT).topics
        there = [name for name in names if name in known]
        deleted = self._client.delete_topics(there, request_timeout=QUESTION_TIMEOUT) if there else {}
        for name, future in deleted.items():
            self._answer(future, f"deleting topic {name}")

    def brokers(self) -> int:
        """How many brokers the cluster has: a topic can have no more replicas."""
        return len(self._metadata(QUESTION_TIMEOUT).brokers)

    def close(self) -> None:
        self._process.check()
        self._client.__exit__(None, None, None)

    def _metadata(self, timeout: float) -> Any:
        self._process.check()
        self._client.poll(0)  # its log lines would pile up
        try:
            return self._client.list_topics(timeout=timeout)
        except KafkaException as error:
            # Callbacks tell why (refused, unknown host, wrong password); list_topics itself only times out.
            self._client.poll(0)
            last = f"; last error: {self._last_error}" if self._last_error else ""
            raise BrokerUnavailable(
                f"Kafka at {self._bootstrap} did not answer within {timeout:g} s{last}. Is it running, and is "
                "kafka.bootstrap its address?"
            ) from error

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str()

    def _describe(self, names: Sequence[str]) -> dict[str, str]:
        if not names:
            return {}
        futures = self._client.describe_topics(TopicCollection(list(names)), request_timeout=QUESTION_TIMEOUT)
        ids: dict[str, str] = {}
        for name, future in futures.items():
            try:
                ids[name] = str(self._answer(future, f"describing topic {name}").topic_id)
            except ConfigError:
                ids[name] = ""  # deleted meanwhile, or hidden from this user
        return ids

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = self._client.describe_configs(asked, request_timeout=QUESTION_TIMEOUT)
        return {
            resource.name: {
                name: entry.value
                for name, entry in self._answer(future, f"reading the settings of topic {resource.name}").items()
                if entry.value is not None
            }
            for resource, future in futures.items()
        }

    def _answer(self, future: Any, what: str) -> Any:
        try:
            return future.result(QUESTION_TIMEOUT + 1)
        except KafkaException as error:
            cause = error_of(error)
            if cause.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                raise _AlreadyThere from None
            raise translated(cause, what, self._bootstrap) from error
        except TimeoutError as error:
            raise BrokerUnavailable(f"{what}: no answer from Kafka at {self._bootstrap}") from error


class _AlreadyThere(Exception):
    """The topic that was to be created exists."""


def _has_controller(metadata: Any) -> bool:
    return metadata.controller_id in metadata.brokers


class MockCluster:
    """librdkafka's in-process broker; lives as long as this object is open."""

    def __init__(self, brokers: int = 1) -> None:
        # The address is not used; log level 2: the other clients' disconnecting at the end is no news.
        config: dict[str, Any] = {"bootstrap.servers": "embedded:1", "test.mock.num.brokers": brokers, "log_level": 2}
        self._client = _Producer(config, logger=LOGGER)
        found = self._client.list_topics(timeout=QUESTION_TIMEOUT).brokers.values()
        self.bootstrap = ",".join(sorted(f"{broker.host}:{broker.port}" for broker in found))

    def create_topic(self, topic: str) -> None:
        """Make the topic with its four partitions, unless it is there."""
        partitions_of(self._client, topic, self.bootstrap)

    def close(self) -> None:
        self._client.close()
