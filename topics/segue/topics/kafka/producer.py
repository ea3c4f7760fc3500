"""The producer port over librdkafka."""

# ruff: noqa: SLF001 - librdkafka's own error codes are public although their names begin with an underscore

from __future__ import annotations

from collections import deque

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as _Producer

from segue.errors import BrokerUnavailable, RejectedRecord, SegueError
from segue.observe import Observer, Silent
from segue.topics.broker import Acked, Outgoing
from segue.topics.kafka.errors import error_of, translated
from segue.topics.kafka.log import LOGGER
from segue.topics.kafka.process import OwnProcess
from segue.topics.names import is_legal
from segue.topics.settings import KafkaSettings


class KafkaProducer:
    """The producer port over librdkafka; one thread only. After a fatal error it goes on with a new client."""

    def __init__(self, settings: KafkaSettings, *, observer: Observer | None = None) -> None:
        self._settings = settings
        self._observer = observer or Silent()
        self._process = OwnProcess()
        self._refused: deque[tuple[Acked, SegueError]] = deque()
        self._fatal: KafkaError | None = None
        self._closed = False
        #: Records handed to the client that are not acknowledged yet; its own length counts its errors, too.
        self._waiting = 0
        self._client = self._connect()

    def send(self, record: Outgoing, acked: Acked) -> None:
        self._process.check()
        if not is_legal(record.topic):
            self._refused.append(
                (acked, RejectedRecord(f"sending to {record.topic!r:.300}: no topic can have that name"))
            )
            return
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
