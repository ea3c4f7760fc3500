"""Listens on all topics, keeps what went over them of late, and can put copies of it there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from random import Random
from types import TracebackType

from segue.errors import BrokerUnavailable
from segue.topics.broker import Outgoing, Record
from segue.topics.kafka import KafkaConsumer, KafkaProducer
from segue.topics.settings import KafkaSettings
from tests.chaos.damage import again, damaged, digest
from tests.chaos.history import History

#: Records of each topic that are remembered.
MEMORY = 500
#: Copies of each topic's records in one go.
HANDFUL = 12


class Tap:
    """In a thread of its own, for the clients belong to one; the nemesis only asks."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str], history: History, *, seed: int) -> None:
        self._settings = settings
        self._history = history
        self._random = Random(seed)
        self._stop = threading.Event()
        self._asked: deque[str] = deque()
        self._heard: dict[str, deque[Record]] = {topic: deque(maxlen=MEMORY) for topic in topics}
        self._digests: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="tap")
        #: Copies that Kafka has acknowledged, by kind.
        self.sent = {"duplicate": 0, "corrupt": 0}

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def ask(self, kind: str) -> None:
        """A handful of copies on each topic: `duplicate` or `corrupt`."""
        self._asked.append(kind)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except BrokerUnavailable:
                self._stop.wait(0.5)  # the nemesis has taken the broker down

    def _listen(self) -> None:
        consumer = KafkaConsumer(self._settings, group=None)
        producer = KafkaProducer(self._settings)
        try:
            consumer.subscribe(list(self._heard), starts=lambda _assigned: {}, revoked=lambda _partitions: None)
            while not self._stop.is_set():
                for record in consumer.poll(500, 0.2).records:
                    # A damaged copy is not copied: what comes of it would be told from it no more.
                    if digest(record.key, record.value, record.headers) not in self._digests:
                        self._heard[record.topic].append(record)
                while self._asked:
                    self._put(producer, self._asked.popleft())
                producer.poll(0.0)
        finally:
            consumer.close()
            producer.flush(2.0)
            producer.close()

    def _put(self, producer: KafkaProducer, kind: str) -> None:
        for topic, records in self._heard.items():
            for record in self._random.sample(list(records), min(HANDFUL, len(records))):
                if kind == "corrupt":
                    damage, copy = damaged(record, self._random)
                    name = digest(copy.key, copy.value, copy.headers)
                    self._digests.add(name)
                    self._history.write("damaged", topic=topic, damage=damage, digest=name)
                else:
                    copy = again(record)
                self._send(producer, kind, copy)

    def _send(self, producer: KafkaProducer, kind: str, copy: Outgoing) -> None:
        def acked(error: Exception | None) -> None:
            if error is None:
                self.sent[kind] += 1

        producer.send(copy, acked)
