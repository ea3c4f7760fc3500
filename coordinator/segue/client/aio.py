"""The client for an event loop: the same verbs as `segue.client.sync`, as coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar, overload

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from segue.client.database import AsyncReader, async_reader_of
from segue.client.outcome import Finished, Started, Subject, Wait, subject_of
from segue.client.requests import Asked, Requests
from segue.client.rows import SagaDescription, Sight, Status
from segue.client.sender import AsyncSender
from segue.client.sync import ACK_TIMEOUT, SOURCE
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

#: What a request can be added to; on an AsyncConnection the row is inserted at once.
AsyncTarget: TypeAlias = Target | AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncLink:
    """What a client and its handles share."""

    clock: Clock
    sleep: Callable[[float], Awaitable[object]]
    reader: AsyncReader
    requests: Requests
    sender: AsyncSender
    #: It has a database to look at.
    sees: bool

    async def send(self, asked: Asked, session: AsyncTarget | None, timeout: timedelta) -> None:
        """To Kafka, or into the transaction of `session`."""
        if session is None:
            await self.sender.deliver(asked.outgoing(), timeout)
        elif isinstance(session, AsyncConnection):
            await session.run_sync(add_message, asked.message(self.clock))
        else:
            add_message(session, asked.message(self.clock))


class AsyncClient:
    """Starts sagas and asks about them, from one event loop.

    As `Client`; `database` may be an AsyncEngine, too. A URL or an Engine is read in threads.
    """

    def __init__(
        self,
        names: TopicNames,
        producer: Producer | None = None,
        *,
        database: str | URL | Engine | AsyncEngine | None = None,
        converter: Converter | None = None,
        codecs: Codecs | None = None,
        clock: Clock = SYSTEM_CLOCK,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        source: str = SOURCE,
    ) -> None:
        self._converter = converter or Converter()
        self._link = AsyncLink(
            clock=clock,
            sleep=sleep,
            reader=async_reader_of(database),
            requests=Requests(names, self._converter, clock, source, codecs),
            sender=AsyncSender(producer, clock, sleep),
            sees=database is not None,
        )
        self._owned: Producer | None = None

    @classmethod
    def connect(
        cls,
        *,
        bootstrap: str,
        coordinator: str,
        database: str | URL | Engine | AsyncEngine | None = None,
        properties: Mapping[str, Property] | None = None,
        topics: TopicNames | None = None,
        source: str = SOURCE,
    ) -> AsyncClient:
        """As `Client.connect`, and no coroutine: it does not wait for Kafka."""
        from segue.topics.kafka import KafkaProducer

        producer = KafkaProducer(KafkaSettings(bootstrap=bootstrap, properties=properties or {}))
        client = cls(topics or TopicNames(coordinator=coordinator), producer, database=database, source=source)
        client._owned = producer
        return client

    @classmethod
    def from_settings(cls, file: Path | None = None, *, source: str = SOURCE) -> AsyncClient:
        """A client of the deployment that `segue.toml` and the environment describe, as the command line reads them.

        As `Client.from_settings`, and no coroutine.
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

    async def start(
        self,
        definition: SagaDefinition[I, O],
        input: I,
        *,
        id: str | None = None,
        session: AsyncTarget | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> AsyncHandle[O]:
        """Start a saga, or attach to the one that has this id; as `Client.start`."""
        asked = self._link.requests.start(definition, input, id)
        started = Started(request_id=asked.request.id, input=asked.body, coordinator=asked.coordinator)
        subject: Subject[O] = subject_of(definition, asked.request.saga_id, self._converter, started)
        if id is None or not await self._is_there(subject):
            await self._link.send(asked, session, timeout)
        return AsyncHandle(self._link, subject)

    @overload
    def handle(self, definition: SagaDefinition[Any, O], id: str) -> AsyncHandle[O]: ...
    @overload
    def handle(self, definition: str, id: str) -> AsyncHandle[Any]: ...
    def handle(self, definition: SagaDefinition[Any, O] | str, id: str) -> AsyncHandle[O]:
        """The saga with this id; as `Client.handle`. Not a coroutine."""
        return AsyncHandle(self._link, subject_of(definition, id, self._converter))

    async def close(self) -> None:
        """Give up what Kafka has not acknowledged, and disconnect; idempotent."""
        producer, self._owned = self._owned, None
        if producer is not None:
            await asyncio.to_thread(producer.close)
        await self._link.reader.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _is_there(self, subject: Subject[Any]) -> bool:
        if not self._link.sees:
            return False
        try:
            sight = await self._link.reader.look(subject.id)
        except Unavailable:
            return False
        return sight.row is not None and bool(subject.row(sight))


class AsyncHandle(Generic[O]):
    """One saga, to be asked and told. Made by `AsyncClient.start` and `AsyncClient.handle`."""

    __slots__ = ("_link", "_subject")

    def __init__(self, link: AsyncLink, subject: Subject[O]) -> None:
        self._link = link
        self._subject = subject

    @property
    def id(self) -> str:
        """The saga's id."""
        return self._subject.id

    async def result(self, timeout: timedelta | None = None) -> O:
        """Wait for the saga's end and return its output; as `Handle.result`."""
        link = self._link
        wait = Wait(link.clock.monotonic(), timeout)
        while True:
            sight = await self._glance(wait)
            finished: Finished[O] | None = None if sight is None else self._subject.outcome(sight)
            if finished is not None:
                return finished.output
            pause = wait.pause(link.clock.monotonic())
            if pause is None:
                raise self._subject.late(sight, timeout or timedelta(0))
            await link.sleep(pause)

    async def signal(
        self,
        signal: Signal[T],
        value: T,
        *,
        id: str | None = None,
        session: AsyncTarget | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> None:
        """Send a signal; as `Handle.signal`."""
        asked = self._link.requests.signal(self.id, signal, value, id)
        if id is None:
            await self._check_receives(signal)
        await self._link.send(asked, session, timeout)

    async def cancel(
        self,
        reason: str = "",
        *,
        compensate: str = "all",
        session: AsyncTarget | None = None,
        timeout: timedelta = ACK_TIMEOUT,
    ) -> None:
        """Ask for the saga to be stopped; as `Handle.cancel`."""
        await self._link.send(self._link.requests.cancel(self.id, reason, compensate), session, timeout)

    async def status(self) -> Status:
        """Where the saga stands. Raises NotFound while there is no such saga."""
        return (await self.describe()).status

    async def query(self, attribute: Attribute[T]) -> T | None:
        """The value that the saga has put on its row, None if it has not."""
        return self._subject.attribute(await self._link.reader.look(self.id), attribute)

    async def describe(self) -> SagaDescription:
        """The whole row. Raises NotFound while there is no such saga."""
        return self._subject.row(await self._link.reader.look(self.id))

    def __repr__(self) -> str:
        return f"<AsyncHandle of saga {self.id}>"

    async def _check_receives(self, signal: Signal[Any]) -> None:
        if not self._link.sees:
            return
        try:
            sight = await self._link.reader.look(self.id)
        except Unavailable:
            return
        self._subject.check_receives(sight, signal.name)

    async def _glance(self, wait: Wait) -> Sight | None:
        try:
            sight = await self._link.reader.look(self.id)
        except StoreUnavailable as error:
            wait.failed(self._link.clock.monotonic(), error)
            return None
        wait.answered()
        return sight
