"""The client for threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, overload

from sqlalchemy import URL, Engine

from segue.client.database import Reader, reader_of
from segue.client.outcome import Finished, Started, Subject, Wait, subject_of
from segue.client.requests import Asked, Requests
from segue.client.rows import SagaDescription, Sight, Status
from segue.client.sender import Sender
from segue.clock import SYSTEM_CLOCK, Clock
from segue.contract import Attribute, Signal
from segue.errors import StoreUnavailable, Unavailable
from segue.outbox.writer import Target, add_message
from segue.saga.definition import SagaDefinition
from segue.settings import load
from segue.settings.deployment import codecs_of, database_of, kafka_of, limits_of, names_of
from segue.topics.broker import Producer
from segue.topics.codec import Codecs
from segue.topics.converter import Converter
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings, Property

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")

#: How long a request may take to be acknowledged by Kafka: twice the producer's own delivery timeout.
ACK_TIMEOUT = timedelta(seconds=10)
#: What the coordinator is told as the origin of requests (`ce_source`), and of a cancel as who asked for it.
SOURCE = "segue.client"


class Waiter(Clock, Protocol):
    """A clock that can also wait."""

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a client and its handles share."""

    clock: Waiter
    reader: Reader
    requests: Requests
    sender: Sender
    #: It has a database to look at.
    sees: bool

    def send(self, asked: Asked, session: Target | None, timeout: timedelta) -> None:
        """To Kafka, or into the transaction of `session`."""
        if session is None:
            self.sender.deliver(asked.outgoing(), timeout)
        else:
            add_message(session, asked.message(self.clock))


class Client:
    """Starts sagas and asks about them; may be shared by threads, and is made after a fork, not before.

    `producer` carries requests to Kafka; without it only calls with `session=` can ask for something. `database` is
    the coordinator's, as a URL or an Engine: results, queries and descriptions are read there; without it those raise
    ConfigError. `close` ends what the client made itself, not what it was given.
    """

    def __init__(
        self,
        names: TopicNames,
        producer: Producer | None = None,
        *,
        database: str | URL | Engine | None = None,
        converter: Converter | None = None,
        codecs: Codecs | None = None,
        clock: Waiter = SYSTEM_CLOCK,
        source: str = SOURCE,
    ) -> None:
        self._converter = converter or Converter()
        self._link = Link(
            clock=clock,
            reader=reader_of(database),
            requests=Requests(names, self._converter, clock, source, codecs),
            sender=Sender(producer, clock),
            sees=database is not None,
        )
        self._owned: Producer | None = None

    @classmethod
    def connect(
        cls,
        *,
        bootstrap: str,
        coordinator: str,
        database: str | URL | Engine | None = None,
        properties: Mapping[str, Property] | None = None,
        topics: TopicNames | None = None,
        source: str = SOURCE,
    ) -> Client:
        """A client with a Kafka producer of its own. `topics` is needed only where topics have names of their own.

        Raises ConfigError for settings that can't be; whether Kafka answers is seen by the first request.
        """
        from segue.topics.kafka import KafkaProducer

        producer = KafkaProducer(KafkaSettings(bootstrap=bootstrap, properties=properties or {}))
        client = cls(topics or TopicNames(coordinator=coordinator), producer, database=database, source=source)
        client._owned = producer
        return client

    @classmethod
    def from_settings(cls, file: Path | None = None, *, source: str = SOURCE) -> Client:
        """A client of the deployment that `segue.toml` and the environment describe, as the command line reads them.

        `file` is that of `--config`; without it SEGUE_CONFIG names one, or it is `segue.toml` in the working directory,
        if there is one. Raises ConfigError with one sentence per problem.
        """
        from segue.topics.kafka import KafkaProducer

        settings = load(file=file, environment=os.environ).settings
        producer = KafkaProducer(kafka_of(settings))
        client = cls(
            names_of(settings),
            producer,
            database=database_of(settings),
            converter=Converter(limits_of(settings)),
            codecs=codecs_of(settings),
            source=source,
        )
        client._owned = producer
        return client

    def start(
        self,
        definition: SagaDefinition[I, O],
        input: I,
        *,
        id: str | None = None,
        session: Target | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> Handle[O]:
        """Start a saga; with an id that is taken already: attach to that saga, if type and input are the same.

        Returns once Kafka has the request or, with `session`, once it is in that transaction's outbox: then the saga
        starts if, and only if, the transaction commits. Without an `id` one is drawn.
        Raises InvalidPayload for an input of another type, InvalidId, StartConflict if the database already shows
        another saga under this id (else `result` raises it), and BrokerUnavailable after `timeout`.
        """
        asked = self._link.requests.start(definition, input, id)
        started = Started(request_id=asked.request.id, input=asked.body, coordinator=asked.coordinator)
        subject: Subject[O] = subject_of(definition, asked.request.saga_id, self._converter, started)
        if id is None or not self._is_there(subject):
            self._link.send(asked, session, timeout)
        return Handle(self._link, subject)

    @overload
    def handle(self, definition: SagaDefinition[Any, O], id: str) -> Handle[O]: ...
    @overload
    def handle(self, definition: str, id: str) -> Handle[Any]: ...
    def handle(self, definition: SagaDefinition[Any, O] | str, id: str) -> Handle[O]:
        """The saga with this id; of a type known by name alone the result is plain JSON. Asks nobody."""
        return Handle(self._link, subject_of(definition, id, self._converter))

    def close(self) -> None:
        """Give up what Kafka has not acknowledged, and disconnect; idempotent."""
        producer, self._owned = self._owned, None
        if producer is not None:
            producer.close()
        self._link.reader.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _is_there(self, subject: Subject[Any]) -> bool:
        """Whether the database shows this very saga already. A start does not depend on a database that answers."""
        if not self._link.sees:
            return False
        try:
            sight = self._link.reader.look(subject.id)
        except Unavailable:
            return False
        return sight.row is not None and bool(subject.row(sight))


class Handle(Generic[O]):
    """One saga, to be asked and told. Made by `Client.start` and `Client.handle`."""

    __slots__ = ("_link", "_subject")

    def __init__(self, link: Link, subject: Subject[O]) -> None:
        self._link = link
        self._subject = subject

    @property
    def id(self) -> str:
        """The saga's id."""
        return self._subject.id

    def result(self, timeout: timedelta | None = None) -> O:
        """Wait for the saga's end and return its output.

        Raises SagaError with code, message and status of a saga that was undone, failed or was cancelled, TimeoutError
        if it has not ended after `timeout` (None: wait as long as it takes), StartConflict if the id belongs to
        another saga than was started, NotFound or InvalidPayload if the start was refused, and StoreUnavailable once
        the database has not answered for some time.
        """
        clock = self._link.clock
        wait = Wait(clock.monotonic(), timeout)
        while True:
            sight = self._glance(wait)
            finished: Finished[O] | None = None if sight is None else self._subject.outcome(sight)
            if finished is not None:
                return finished.output
            pause = wait.pause(clock.monotonic())
            if pause is None:
                raise self._subject.late(sight, timeout or timedelta(0))
            clock.sleep(pause)

    def signal(
        self,
        signal: Signal[T],
        value: T,
        *,
        id: str | None = None,
        session: Target | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> None:
        """Send a signal; one that comes before its saga waits for it.

        With an `id` it is received once, however often it is sent; but two of them can't wait in one outbox: the
        second transaction fails with an IntegrityError until the relay has sent the first. Another value under a known
        id is refused: it becomes a dead letter, as does one that the saga has not received by its end. Raises
        InvalidPayload for a value of another type, NotAllowed where the database shows that the saga receives nothing
        any more (not with an `id`: it may have received just this one), BrokerUnavailable after `timeout`.
        """
        asked = self._link.requests.signal(self.id, signal, value, id)
        if id is None:
            self._check_receives(signal)
        self._link.send(asked, session, timeout)

    def cancel(
        self,
        reason: str = "",
        *,
        compensate: str = "all",
        session: Target | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> None:
        """Ask for the saga to be stopped, and what it did to be undone: `all`, `none`, or back to a step, `to:STEP`.

        Returns once Kafka has the request or, with `session`, once it is in that transaction's outbox; `result` then
        raises SagaError. A saga that is over stays as it is.
        """
        self._link.send(self._link.requests.cancel(self.id, reason, compensate), session, timeout)

    def status(self) -> Status:
        """Where the saga stands. Raises NotFound while there is no such saga."""
        return self.describe().status

    def query(self, attribute: Attribute[T]) -> T | None:
        """The value that the saga has put on its row, None if it has not; read there, without the saga's code."""
        return self._subject.attribute(self._link.reader.look(self.id), attribute)

    def describe(self) -> SagaDescription:
        """The whole row. Raises NotFound while there is no such saga."""
        return self._subject.row(self._link.reader.look(self.id))

    def __repr__(self) -> str:
        return f"<Handle of saga {self.id}>"

    def _check_receives(self, signal: Signal[Any]) -> None:
        """A signal does not depend on a database that answers."""
        if not self._link.sees:
            return
        try:
            sight = self._link.reader.look(self.id)
        except Unavailable:
            return
        self._subject.check_receives(sight, signal.name)

    def _glance(self, wait: Wait) -> Sight | None:
        try:
            sight = self._link.reader.look(self.id)
        except StoreUnavailable as error:
            wait.failed(self._link.clock.monotonic(), error)
            return None
        wait.answered()
        return sight
