"""Deliver some commands and replies twice: what Kafka, a relay or a restart may do at any time, done on purpose."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from zlib import crc32

from segue.errors import BrokerUnavailable
from segue.topics.broker import Outgoing, Record
from segue.topics.kafka import KafkaConsumer, KafkaProducer
from segue.topics.settings import KafkaSettings


class Duplicator:
    """Reads topics along and appends a share of the records once more, byte for byte; in a thread of its own."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str], *, percent: int, seed: int) -> None:
        self._settings = settings
        self._topics = list(topics)
        self._percent = percent
        self._seed = seed
        self._stop = threading.Event()
        self._seen: set[bytes] = set()
        self._thread = threading.Thread(target=self._run, name="duplicator")
        #: Records that were delivered once more.
        self.count = 0

    def __enter__(self) -> Duplicator:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._copy()
            except BrokerUnavailable:
                self._stop.wait(0.5)  # a topic whose leader is being elected, a broker that comes back

    def _copy(self) -> None:
        consumer = KafkaConsumer(self._settings, group=None)
        producer = KafkaProducer(self._settings)
        try:
            consumer.subscribe(self._topics, starts=lambda _assigned: {}, revoked=lambda _partitions: None)
            while not self._stop.is_set():
                for record in consumer.poll(500, 0.2).records:
                    if self._chosen(record):
                        producer.send(_again(record), lambda _error: None)
                        self.count += 1
                producer.poll(0.0)
        finally:
            consumer.close()
            producer.flush(2.0)
            producer.close()

    def _chosen(self, record: Record) -> bool:
        """By the message's id, so that the same seed chooses the same; and never a duplicate of our own."""
        identity = dict(record.headers).get("ce_id") or b""
        if identity in self._seen or crc32(identity, self._seed) % 100 >= self._percent:
            return False
        self._seen.add(identity)
        return True


def _again(record: Record) -> Outgoing:
    return Outgoing(topic=record.topic, key=record.key, value=record.value, headers=record.headers)
