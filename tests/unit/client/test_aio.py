"""The client for an event loop: the same verbs, on the loop's own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from segue import outbox
from segue.client import AsyncClient
from segue.contract import minutes
from segue.errors import BrokerUnavailable, ConfigError, NotFound, StartConflict, StoreUnavailable
from segue.outbox.schema import outbox_table
from segue.saga import SagaError
from segue.topics import MemoryBroker
from tests.unit.client.kit import ORDER, Creeping, EstateWaiter, decision, order_saga, progress, reviewed
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.saga.kit import Order, Shipped

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def test_a_started_saga_gives_its_output_as_the_declared_type(async_client: AsyncClient) -> None:
    async def main() -> None:
        async with async_client as client:
            handle = await client.start(order_saga, ORDER, id="order-17")
            assert await handle.result(timeout=minutes(2)) == Shipped("p-1")
            assert await handle.status() == "completed"
            assert (await handle.describe()).definition == "order"
            assert await client.handle(order_saga, "order-17").query(progress) == 0.5

    run(main())


def test_signals_and_cancellations_reach_the_saga(async_client: AsyncClient) -> None:
    async def main() -> None:
        async with async_client as client:
            declined = await client.start(reviewed, ORDER, id="r-1")
            await declined.signal(decision, False, id="click")
            with pytest.raises(SagaError, match="declined: by ann"):
                await declined.result(timeout=minutes(1))
            cancelled = await client.start(reviewed, ORDER, id="r-2")
            await cancelled.cancel("the customer called")
            with pytest.raises(SagaError) as raised:
                await cancelled.result(timeout=minutes(1))
            assert raised.value.status == "cancelled"

    run(main())


def test_many_starts_at_once_wait_for_their_own_acknowledgement(async_client: AsyncClient, estate: Estate) -> None:
    async def main() -> None:
        async with async_client as client:
            handles = await asyncio.gather(*(client.start(order_saga, ORDER, id=f"o-{n}") for n in range(20)))
            assert [handle.id for handle in handles] == [f"o-{n}" for n in range(20)]

    run(main())
    assert len(estate.broker.records(NAMES.requests)) == 20


def test_conflicts_timeouts_and_what_is_not_there_are_told(async_client: AsyncClient) -> None:
    async def main() -> None:
        async with async_client as client:
            first = await client.start(order_saga, ORDER, id="order-17")
            second = await client.start(order_saga, Order(id="other"), id="order-17")
            assert await first.result() == Shipped("p-1")
            with pytest.raises(StartConflict):
                await second.result()
            with pytest.raises(StartConflict):
                await client.start(reviewed, ORDER, id="order-17")
            with pytest.raises(NotFound):
                await client.handle(order_saga, "nobody").status()
            with pytest.raises(TimeoutError):
                await client.handle(order_saga, "nobody").result(timeout=timedelta(seconds=1))

    run(main())


def test_a_start_joins_the_transaction_of_an_async_session_and_of_an_async_connection(
    async_client: AsyncClient, tmp_path: Path
) -> None:
    async def main() -> list[str]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'service.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(outbox.metadata.create_all)
        async with async_client as client:
            async with AsyncSession(engine) as session:
                await client.start(order_saga, ORDER, id="rolled-back", session=session)
                await session.rollback()
            async with AsyncSession(engine) as session:
                await client.start(order_saga, ORDER, id="in-session", session=session)
                await session.commit()
            async with engine.begin() as connection:
                await client.start(order_saga, ORDER, id="on-connection", session=connection)
        async with engine.connect() as connection:
            found = (await connection.execute(select(outbox_table.c.saga_id))).scalars().all()
        await engine.dispose()
        return sorted(str(saga_id) for saga_id in found)

    assert run(main()) == ["in-session", "on-connection"]


def test_results_are_read_through_an_async_engine_or_in_threads_off_the_loop(
    estate: Estate, url: str, waiter: EstateWaiter
) -> None:
    async def main(database: Any, id: str) -> None:
        producer = estate.broker.producer()
        async with AsyncClient(NAMES, producer, database=database, clock=waiter, sleep=waiter.asleep) as client:
            assert await (await client.start(order_saga, ORDER, id=id)).result(timeout=minutes(1)) == Shipped("p-1")

    async def native() -> None:
        engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
        await main(engine, "order-1")
        await engine.dispose()

    run(native())
    engine = create_engine(url)
    looked: set[str] = set()
    event.listen(engine, "engine_connect", lambda _: looked.add(threading.current_thread().name))
    run(main(engine, "order-2"))
    engine.dispose()
    assert looked
    assert threading.current_thread().name not in looked


def test_a_broker_that_does_not_acknowledge_is_given_up_on_in_time() -> None:
    broker = MemoryBroker()
    broker.down = True
    clock = Creeping()

    async def no_wait(seconds: float) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with AsyncClient(NAMES, broker.producer(), clock=clock, sleep=no_wait) as client:
            with pytest.raises(BrokerUnavailable, match="'order-17'"):
                await client.start(order_saga, ORDER, id="order-17", timeout=timedelta(seconds=5))

    run(main())


def test_what_is_not_configured_or_fails_for_long_is_told(async_client: AsyncClient, monkeypatch: Any) -> None:
    async def gone(_: str) -> Any:
        raise StoreUnavailable("gone")

    async def main() -> None:
        async with AsyncClient(NAMES) as bare:
            with pytest.raises(ConfigError, match="bootstrap="):
                await bare.start(order_saga, ORDER)
            with pytest.raises(ConfigError, match="database="):
                await bare.handle(order_saga, "x").result()
        async with async_client as client:
            monkeypatch.setattr(client._link.reader, "look", gone)
            handle = await client.start(order_saga, ORDER, id="order-18")
            with pytest.raises(StoreUnavailable, match="gone"):
                await handle.result()

    run(main())


def test_a_connection_of_its_own_is_closed_and_closing_is_idempotent(url: str) -> None:
    async def main() -> None:
        client = AsyncClient.connect(bootstrap="localhost:1", coordinator="test", database=url)
        await client.close()
        await client.close()

    run(main())
