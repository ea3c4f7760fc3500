"""Behind a real PgBouncer in transaction mode, where each transaction gets whichever session is free."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from segue import outbox
from segue.activities import LoopOptions, Rejected, Worker, WorkerOptions
from segue.activities.runner import AsyncRunner, Runner, ThreadRunner
from segue.client import Client
from segue.coordinator.queries import SagaFilter
from segue.coordinator.reads import Reads
from segue.coordinator.sql import SqlStore
from segue.errors import ConfigError, NotFound
from segue.migrations import check, upgrade
from segue.migrations.runner import FIRST_TABLES
from segue.outbox.deadline import watch
from segue.outbox.relay import Relay
from segue.topics.memory import MemoryBroker
from segue.topics.names import TopicNames
from tests.real.pgbouncer import PgBouncer
from tests.unit.activities.kit import Booking, Charged, Order, Service, charge, command

MANY = 120


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Engine]:
    """As a service makes it: nothing is said of prepared statements."""
    engine = create_engine(pooled_url, pool_size=4)
    yield engine
    engine.dispose()


def settle(service: Service, runner: Runner, loop: Any) -> None:
    for _ in range(2000):
        loop.step()
        if len(service.outcomes()) >= MANY:
            return
        service.clock.seconds += 0.1
        runner.wait(0.02)
    raise AssertionError(f"{len(service.outcomes())} of {MANY} were answered")


OPTIONS = WorkerOptions(loop=LoopOptions(concurrency=4, group=1, commit_interval=0.0))


def test_a_worker_answers_its_commands_and_prepares_nothing(pooled: Engine) -> None:
    watch(pooled)
    service = Service(pooled)
    service.consumer.close()
    prepared: list[int] = []

    def behave(ctx: Any, order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=1))
        ctx.session.flush()
        prepared.append(ctx.session.scalar(text("SELECT count(*) FROM pg_prepared_statements")))
        if order.id.endswith("7"):
            raise Rejected("no")
        return Charged("c")

    worker = Worker("payments", sessions=sessionmaker(pooled), options=OPTIONS, clock=service.clock)
    worker.handle(charge)(behave)
    runner = ThreadRunner(sessionmaker(pooled), 4)
    loop = worker.loop(service.broker.consumer("payments"), service.broker.producer(), runner=runner)
    loop.start()
    service.send(*[command(f"o-{n}") for n in range(MANY)])
    settle(service, runner, loop)
    assert (service.outcomes().count("failure:no"), service.outcomes().count("success")) == (MANY // 10, MANY * 9 // 10)
    assert service.bookings() == MANY * 9 // 10
    assert set(prepared) == {0}
    runner.close()


def test_an_async_worker_answers_its_commands(pooled: Engine, pooled_url: str) -> None:
    service = Service(pooled)
    service.consumer.close()
    sessions = async_sessionmaker(create_async_engine(pooled_url))

    async def behave(ctx: Any, order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=1))
        return Charged("c")

    worker = Worker("payments", sessions=sessions, options=OPTIONS, clock=service.clock)
    worker.handle(charge)(behave)
    runner = AsyncRunner(sessions)
    loop = worker.loop(service.broker.consumer("payments"), service.broker.producer(), runner=runner)
    loop.start()
    service.send(*[command(f"o-{n}") for n in range(MANY)])
    settle(service, runner, loop)
    assert service.outcomes() == ["success"] * MANY
    runner.close()


def test_a_relay_publishes_what_was_added(pooled: Engine) -> None:
    outbox.create_all(pooled)
    with Session(pooled) as session:
        for n in range(50):
            outbox.add(session, "events", b"x", key=f"k-{n}", type="happened")
        session.commit()
    broker, stop = MemoryBroker(), threading.Event()
    relay = Relay(pooled, broker.producer())
    while len(broker.records("events")) < 50:
        relay.step()
    relay.shut()
    stop.set()
    assert len(broker.records("events")) == 50


SETTINGS: dict[str, Any] = {"lock_timeout": timedelta(seconds=1), "call_timeout": timedelta(seconds=20)}


def test_the_coordinator_refuses_it_with_a_sentence_and_sets_nothing(pooled_url: str, postgres_url: str) -> None:
    upgrade(postgres_url)
    store = SqlStore(pooled_url, **SETTINGS)
    with pytest.raises(ConfigError, match="connection pooler in transaction mode"), store.batch():
        pass
    store.close()
    engine = create_engine(pooled_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW enable_seqscan")) == "on"
    engine.dispose()


def test_the_coordinator_works_behind_a_pooler_in_session_mode(postgres_url: str) -> None:
    upgrade(postgres_url)
    pooler = PgBouncer(f"session-{os.getpid()}", upstream=postgres_url, mode="session")
    pooler.start(fresh=True)
    try:
        store = SqlStore(pooler.address, **SETTINGS)
        with store.batch() as batch:
            assert batch.now is not None
        store.close()
    finally:
        pooler.remove()


def in_schema(url: str) -> str:
    return f"{url}?options=-csearch_path%3Dsegue"


def test_behind_a_pooler_in_session_mode_the_coordinator_is_in_its_schema(postgres_url: str) -> None:
    upgrade(in_schema(postgres_url))
    pooler = PgBouncer(f"session-{os.getpid()}", upstream=postgres_url, mode="session")
    pooler.start(fresh=True)
    try:
        store = SqlStore(in_schema(pooler.address), **SETTINGS)
        assert store.offsets("segue") == {}, "the pooler leaves the options out, and the store says it again"
        store.close()
    finally:
        pooler.remove()


def test_the_schema_is_made_through_a_pooler(pooled_url: str, postgres_url: str) -> None:
    upgrade(in_schema(pooled_url))
    assert check(in_schema(pooled_url)) == []
    engine = create_engine(postgres_url)
    assert set(inspect(engine).get_table_names("segue")) >= FIRST_TABLES
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_who_reads_through_a_pooler_that_forgets_the_schema_is_told_and_not_shown_another_s(
    pooled_url: str, postgres_url: str
) -> None:
    upgrade(postgres_url)  # an older coordinator's, which would be taken for ours
    reads = Reads(in_schema(pooled_url))
    with pytest.raises(ConfigError, match=r"is not in schema segue, .* connect_query='SET search_path TO segue'"):
        reads.count(SagaFilter())
    reads.close()
    client = Client(TopicNames(coordinator="shop"), database=in_schema(pooled_url))
    with client, pytest.raises(ConfigError, match="is not in schema segue"):
        client.handle("order", "order-1").status()


def test_a_pooler_may_say_the_schema_itself(postgres_url: str) -> None:
    upgrade(in_schema(postgres_url))
    pooler = PgBouncer(f"schema-{os.getpid()}", upstream=postgres_url, connect_query="SET search_path TO segue")
    pooler.start(fresh=True)
    try:
        reads = Reads(in_schema(pooler.address))
        assert reads.count(SagaFilter()) == 0
        reads.close()
        client = Client(TopicNames(coordinator="shop"), database=in_schema(pooler.address))
        with client, pytest.raises(NotFound):
            client.handle("order", "order-1").status()
    finally:
        pooler.remove()
