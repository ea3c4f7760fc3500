"""What is asked of Kafka outside of reading and writing: is it there, which topics has it, make them."""

# ruff: noqa: SLF001 - librdkafka's own error codes are public although their names begin with an underscore

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from segue.errors import BrokerUnavailable, ConfigError
from segue.topics.admin import TopicSpec, TopicState
from segue.topics.broker import Partition
from segue.topics.kafka.errors import error_of, translated
from segue.topics.kafka.log import LOGGER
from segue.topics.kafka.process import OwnProcess
from segue.topics.kafka.questions import QUESTION_TIMEOUT, partitions_of
from segue.topics.settings import KafkaSettings


class KafkaAdmin:
    """Preflight checks, topic descriptions and creation. Every call ends within its timeout."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._bootstrap = settings.bootstrap
        self._process = OwnProcess()
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

    def group_offset(self, group: str, partition: Partition) -> int | None:
        """Where a consumer group goes on; None where it has committed nothing."""
        asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(*partition)])]
        futures = self._client.list_consumer_group_offsets(asked, request_timeout=QUESTION_TIMEOUT)
        [found] = self._answer(futures[group], f"reading the offsets of group {group}").topic_partitions
        return int(found.offset) if found.offset >= 0 else None

    def has_members(self, group: str) -> bool:
        """Whether anybody is in the group: then nobody else can move its offsets."""
        futures = self._client.describe_consumer_groups([group], request_timeout=QUESTION_TIMEOUT)
        return bool(self._answer(futures[group], f"describing group {group}").members)

    def set_group_offset(self, group: str, partition: Partition, offset: int) -> None:
        """Let a group without members go on there."""
        wanted = [ConsumerGroupTopicPartitions(group, [TopicPartition(*partition, offset)])]
        futures = self._client.alter_consumer_group_offsets(wanted, request_timeout=QUESTION_TIMEOUT)
        [moved] = self._answer(futures[group], f"moving the offset of group {group}").topic_partitions
        if moved.error is not None:
            raise translated(moved.error, f"moving the offset of group {group}", self._bootstrap)

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
