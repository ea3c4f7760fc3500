"""The client reads PostgreSQL: by URL without naming the driver, and from an event loop through an AsyncEngine."""

from __future__ import annotations

import asyncio
from datetime import UTC

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from segue.client import AsyncClient, Client
from segue.contract import minutes
from segue.coordinator.schema import metadata
from segue.coordinator.sql import SqlStore
from segue.errors import InvalidPayload, StoreUnavailable
from tests.unit.client.kit import ORDER, EstateWaiter, misunderstood, nothing, order_saga, progress
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock
from tests.unit.saga.kit import Shipped


def test_results_attributes_and_refused_starts_are_read_from_postgresql(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    metadata.create_all(engine)
    engine.dispose()
    store = SqlStore(postgres_url)
    estate = Estate(store, [order_saga, nothing], ManualClock())
    waiter = EstateWaiter(estate)
    bare = postgres_url.replace("postgresql+psycopg", "postgresql")

    with Client(NAMES, estate.broker.producer(), database=bare, clock=waiter) as client:
        handle = client.start(order_saga, ORDER, id="order-17")
        assert handle.result(timeout=minutes(1)) == Shipped("p-1")
        assert handle.query(progress) == 0.5
        assert handle.describe().started_at.tzinfo == UTC
        with pytest.raises(InvalidPayload, match="invalid_input"):
            client.start(misunderstood, 1).result(timeout=minutes(1))

    async def read() -> Shipped:
        engine = create_async_engine(postgres_url)
        async with AsyncClient(NAMES, database=engine) as client:
            shipped = await client.handle(order_saga, "order-17").result(timeout=minutes(1))
        await engine.dispose()
        return shipped

    assert asyncio.run(read()) == Shipped("p-1")
    estate.close()
    store.close()


def test_a_postgresql_that_is_not_there_is_a_trouble_that_passes() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with Client(NAMES, database=nowhere) as client, pytest.raises(StoreUnavailable, match="can't read"):
        client.handle(order_saga, "x").status()
