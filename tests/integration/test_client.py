"""Everything as users run it: client, coordinator and worker on the embedded broker, SQLite on disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from segue.activities import Context, Rejected, Undo, Worker
from segue.client import AsyncClient, Client
from segue.contract import Activity, Attribute, Signal, minutes
from segue.coordinator.schema import metadata
from segue.coordinator.service import Coordinator
from segue.coordinator.sql import SqlStore
from segue.errors import StartConflict
from segue.saga import Saga, SagaError, saga
from segue.saga.definition import Registry
from segue.topics import TopicNames
from segue.topics.embedded import EmbeddedBroker
from segue.topics.kafka import KafkaConsumer, KafkaProducer

NAMES = TopicNames(coordinator="shop")

charge = Activity("payments.charge", int, str)
refund = charge.undo("payments.refund")
check = Activity("payments.check", str)
approval = Signal("approval", bool)
step_done = Attribute("step_done", str)


@saga("purchase")
async def purchase(s: Saga, amount: int) -> str:
    receipt = await s.call(charge, amount, compensate=refund)
    s.set(step_done, "charged")
    if amount > 100 and not await s.receive(approval):
        await s.call(check, "declined")
    return receipt


@saga("unknown-here")
async def unknown_here(s: Saga, amount: int) -> None:
    await s.call(check, str(amount))


def make_worker(sessions: sessionmaker[Session], refunded: list[int]) -> Worker[Session]:
    worker = Worker("payments", sessions=sessions)

    @worker.handle(charge)
    def charge_amount(ctx: Context[Session], amount: int) -> str:
        return f"receipt for {amount}"

    @worker.handle(refund)
    def refund_amount(ctx: Context[Session], undo: Undo[int, str]) -> None:
        refunded.append(undo.input)

    @worker.handle(check)
    def check_word(ctx: Context[Session], word: str) -> None:
        raise Rejected(word)

    worker.create_tables()
    return worker


class Shop:
    """A running deployment."""

    def __init__(self, broker: EmbeddedBroker, database: str, refunded: list[int]) -> None:
        self.broker = broker
        self.database = database
        self.refunded = refunded


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder: Path = tmp_path_factory.mktemp("shop")
    database = f"sqlite:///{folder / 'segue.db'}"
    with EmbeddedBroker() as broker, ExitStack() as closing:
        broker.create_topics([NAMES.requests, NAMES.replies, NAMES.dlq, "payments.commands", "payments.dlq"])
        engine = create_engine(database)
        metadata.create_all(engine)
        engine.dispose()
        service = create_engine(f"sqlite:///{folder / 'payments.db'}")
        closing.callback(service.dispose)
        refunded: list[int] = []
        worker = make_worker(sessionmaker(service), refunded)
        stop = threading.Event()
        settings = broker.settings()

        def coordinate() -> None:
            store, producer = SqlStore(database), KafkaProducer(settings)
            consumer = KafkaConsumer(settings, group=NAMES.coordinator)
            Coordinator(NAMES, Registry([purchase]), store, consumer, producer).run(stop.is_set)
            producer.close()
            store.close()

        def work() -> None:
            worker.run(settings.bootstrap, properties=settings.properties, stop=stop)

        failures: list[Exception] = []
        threads = [threading.Thread(target=guarded(run, failures)) for run in (coordinate, work)]
        for thread in threads:
            thread.start()
        yield Shop(broker, database, refunded)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert failures == []


def guarded(run: Callable[[], None], failures: list[Exception]) -> Callable[[], None]:
    def main() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - told when the deployment stops
            failures.append(error)

    return main


@pytest.fixture
def client(shop: Shop) -> Iterator[Client]:
    settings = shop.broker.settings()
    with Client.connect(
        bootstrap=settings.bootstrap, coordinator="shop", database=shop.database, properties=settings.properties
    ) as client:
        yield client


def test_a_saga_is_started_waited_for_and_asked(client: Client) -> None:
    handle = client.start(purchase, 5, id="small")
    assert handle.result(timeout=minutes(1)) == "receipt for 5"
    assert client.start(purchase, 5, id="small").result() == "receipt for 5"
    assert client.handle(purchase, "small").query(step_done) == "charged"
    with pytest.raises(StartConflict):
        client.start(purchase, 6, id="small")


def test_a_declined_saga_is_undone_and_says_why(client: Client, shop: Shop) -> None:
    handle = client.start(purchase, 500, id="large")
    handle.signal(approval, False, id="click-1")
    with pytest.raises(SagaError) as raised:
        handle.result(timeout=minutes(1))
    assert (raised.value.failure_code, raised.value.status) == ("declined", "compensated")
    assert 500 in shop.refunded


def test_a_start_of_what_is_not_deployed_yet_is_kept(client: Client) -> None:
    with pytest.raises(TimeoutError, match="has it this saga type"):
        client.start(unknown_here, 1).result(timeout=timedelta(seconds=3))


def test_threads_share_a_client(client: Client) -> None:
    results: dict[int, str] = {}

    def buy(n: int) -> None:
        results[n] = client.start(purchase, n, id=f"thread-{n}").result(timeout=minutes(1))

    threads = [threading.Thread(target=buy, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: f"receipt for {n}" for n in range(8)}


def test_an_event_loop_runs_many_sagas_at_once(shop: Shop) -> None:
    async def main() -> list[str]:
        settings = shop.broker.settings()
        async with AsyncClient.connect(
            bootstrap=settings.bootstrap, coordinator="shop", database=shop.database, properties=settings.properties
        ) as client:
            handles = await asyncio.gather(*(client.start(purchase, n) for n in range(20)))
            waiting = await client.start(purchase, 101)
            await waiting.cancel("changed my mind")
            with pytest.raises(SagaError) as raised:
                await waiting.result(timeout=minutes(1))
            assert raised.value.status == "cancelled"
            return await asyncio.gather(*(handle.result(timeout=minutes(1)) for handle in handles))

    assert asyncio.run(main()) == [f"receipt for {n}" for n in range(20)]
