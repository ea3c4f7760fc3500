"""A coordinator away for longer than every deadline, the replies waiting in Kafka: nobody is undone for lateness."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine, text

from segue.clock import fresh_id
from segue.coordinator.service import Coordinator
from segue.coordinator.sql import SqlStore
from segue.ids import reply_id
from segue.migrations.runner import upgrade
from segue.saga import Registry, Saga, saga
from segue.topics import TopicNames
from segue.topics.admin import plan
from segue.topics.broker import Outgoing
from segue.topics.embedded import EmbeddedBroker
from segue.topics.envelope import Command, Reply, Request, parse_command
from segue.topics.kafka import KafkaAdmin, KafkaConsumer, KafkaProducer
from segue.topics.settings import KafkaSettings
from tests.unit.saga.kit import OUTPUTS, Order, charge, refund, release, reserve

SAGAS = 20
SECOND = timedelta(seconds=1)


@saga("hasty")
async def hasty(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund, timeout=SECOND)
    await s.call(reserve, order, compensate=release, timeout=60 * SECOND)


@saga("bounded", deadline=2 * SECOND)
async def bounded(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund, timeout=SECOND)


@dataclass
class Pair:
    """Kafka and a database, a participant that answers when it is told to, coordinators that come and go."""

    settings: KafkaSettings
    url: str
    names: TopicNames
    stack: ExitStack
    unanswered: list[Command] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        upgrade(self.url)
        self.store = SqlStore(self.url)
        self.stack.callback(self.store.close)
        self.producer = KafkaProducer(self.settings)
        self.stack.callback(self.producer.close)
        self.participant = KafkaConsumer(self.settings, group=None)
        self.stack.callback(self.participant.close)
        topics = [self.names.commands_of(service) for service in ("payments", "stock")]
        self.participant.subscribe(topics, starts=lambda _: {}, revoked=lambda _: None)
        self.engine = create_engine(self.url)
        self.stack.callback(self.engine.dispose)

    @contextmanager
    def coordinator(self) -> Iterator[Coordinator]:
        producer = KafkaProducer(self.settings)
        consumer = KafkaConsumer(self.settings, group=self.names.coordinator)
        one = Coordinator(
            self.names, Registry([hasty, bounded]), self.store, consumer, producer, broker_id=self.settings.bootstrap
        )
        try:
            yield one
            one.drain()
        finally:
            one.close()
            producer.close()

    def send(self, topic: str, key: str, value: bytes, headers: tuple[tuple[str, bytes | None], ...]) -> None:
        self.producer.send(Outgoing(topic=topic, key=key.encode(), value=value, headers=headers), lambda _error: None)

    def start(self, n: int) -> None:
        name = "hasty" if n % 2 else "bounded"
        request = Request(id=f"start-{n}", action="start", saga_id=f"h-{n}", name=name)
        body = b'{"id":"o","account":"ann","total":"1"}'
        self.send(self.names.requests, f"h-{n}", body, request.headers())

    def receive(self) -> bool:
        for record in self.participant.poll(500, 0.02).records:
            self.unanswered.append(parse_command(record))
        return bool(self.unanswered)

    def answer(self) -> bool:
        """Answer every command received since the last time, and wait until Kafka has the replies."""
        while self.unanswered:
            command = self.unanswered.pop()
            self.commands.append(command)
            reply = Reply(id=reply_id(command.id, "success"), command_id=command.id, saga_id=command.saga_id)
            body = msgspec.json.encode(OUTPUTS.get(command.activity))
            self.send(command.reply_to, command.saga_id, body, reply.headers())
        return self.producer.flush(20) == 0

    def statuses(self) -> dict[str, str]:
        with self.engine.connect() as connection:
            return {row.id: row.status for row in connection.execute(text("SELECT id, status FROM saga"))}


@pytest.fixture(params=["embedded", "real"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    names = TopicNames(coordinator=f"outage-{fresh_id()[:8]}", commands="{coordinator}.{service}.commands")
    with ExitStack() as stack:
        if request.param == "embedded":
            broker = stack.enter_context(EmbeddedBroker())
            topics = (names.requests, names.replies, names.dlq, *map(names.commands_of, ("payments", "stock")))
            broker.create_topics(topics)
            yield Pair(broker.settings(), f"sqlite:///{tmp_path / 'c.sqlite'}", names, stack)
            return
        settings = KafkaSettings(bootstrap=request.getfixturevalue("kafka_bootstrap"))
        admin = KafkaAdmin(settings)
        admin.create(plan(names, ["payments", "stock"], partitions=3, replication=1))
        admin.close()
        yield Pair(settings, request.getfixturevalue("postgres_url"), names, stack)


def until(condition: Callable[[], bool], step: Callable[[], object], what: str) -> None:
    """Step until it holds; 60 s are a bound, not a measurement."""
    give_up = time.monotonic() + 60
    while not condition():
        step()
        assert time.monotonic() < give_up, what


def test_after_an_outage_longer_than_every_deadline_nobody_is_compensated_for_lateness(pair: Pair) -> None:
    with pair.coordinator() as coordinator:
        for n in range(SAGAS):
            pair.start(n)
        until(
            lambda: len({command.saga_id for command in pair.unanswered}) == SAGAS,
            lambda: (coordinator.step(0.02), pair.receive()),
            "every saga has sent its first command",
        )
    assert pair.answer()
    away_until = pair.store.now() + 4 * SECOND
    until(lambda: pair.store.now() > away_until, pair.receive, "the deadlines are long over")
    with pair.coordinator() as coordinator:
        until(
            lambda: set(pair.statuses().values()) == {"completed"},
            lambda: (coordinator.step(0.02), pair.receive(), pair.answer()),
            f"every saga completes: {pair.statuses()}",
        )
    assert [command for command in pair.commands if command.action == "compensate"] == []
