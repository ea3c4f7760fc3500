"""An estate over SQLite, in which a client of another engine reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from segue.client import AsyncClient, Client
from segue.coordinator.schema import metadata
from segue.coordinator.sql import SqlStore
from tests.unit.client.kit import EstateWaiter, nothing, order_saga, returned, reviewed
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'segue.db'}"
    engine = create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    return url


@pytest.fixture
def estate(url: str) -> Iterator[Estate]:
    store = SqlStore(url)
    estate = Estate(store, [order_saga, reviewed, returned, nothing], ManualClock())
    yield estate
    estate.close()
    store.close()


@pytest.fixture
def waiter(estate: Estate) -> EstateWaiter:
    return EstateWaiter(estate)


@pytest.fixture
def client(estate: Estate, url: str, waiter: EstateWaiter) -> Iterator[Client]:
    with Client(NAMES, estate.broker.producer(), database=url, clock=waiter) as client:
        yield client


@pytest.fixture
def async_client(estate: Estate, url: str, waiter: EstateWaiter) -> AsyncClient:
    return AsyncClient(NAMES, estate.broker.producer(), database=url, clock=waiter, sleep=waiter.asleep)
