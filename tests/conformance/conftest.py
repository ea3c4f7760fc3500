"""Benches of the store port (the fake, SQLite, PostgreSQL), a way to PostgreSQL that can be cut, a service's tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url

from segue import outbox
from segue.coordinator.memory import MemoryStore
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Store
from segue.migrations import upgrade
from segue.observe import Logging
from segue.outbox.pipeline import Pipeline
from tests.conformance.store_kit import T0, Bench
from tests.real.proxy import Proxy
from tests.unit.activities.kit import Base

_SETTINGS: dict[str, Any] = {"lock_timeout": timedelta(milliseconds=300), "call_timeout": timedelta(seconds=20)}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Every adapter."""
    yield from _bench(request, request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def sql_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The adapters on a database that others use at the same time."""
    yield from _bench(request, request.param)


@pytest.fixture
def postgres_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """PostgreSQL."""
    yield from _bench(request, "postgres")


def _bench(request: pytest.FixtureRequest, kind: str) -> Iterator[Bench]:
    bench = _memory() if kind == "memory" else _sql(kind, str(request.getfixturevalue(f"{kind}_url")))
    yield bench
    bench.close()


def _memory() -> Bench:
    store = MemoryStore(lambda: T0)
    return Bench("memory", lambda: store)


def _sql(kind: str, url: str) -> Bench:
    upgrade(url)
    return Bench(kind, lambda: SqlStore(url, **_SETTINGS), url, _SETTINGS)


# --- a way that can be cut


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    url = make_url(postgres_url)
    with Proxy((str(url.host), int(url.port or 5432))) as running:
        yield running


@pytest.fixture
def far_url(postgres_url: str, proxy: Proxy) -> str:
    """PostgreSQL behind the proxy."""
    return make_url(postgres_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)


@pytest.fixture
def observer() -> Logging:
    return Logging()


@pytest.fixture
def far(postgres_bench: Bench, far_url: str, observer: Logging) -> Iterator[Store]:
    """A store behind the proxy, whose calls may take a second."""
    store = SqlStore(far_url, call_timeout=timedelta(seconds=1), observer=observer, pool_size=1)
    yield store
    store.close()


# --- a service


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """A service's database, with one connection."""
    engine = create_engine(postgres_url, pool_size=1, max_overflow=0)
    Base.metadata.create_all(engine)
    outbox.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def far_engine(engine: Engine, far_url: str) -> Iterator[Engine]:
    """The same, behind the proxy."""
    far = create_engine(far_url, pool_size=1, max_overflow=0)
    yield far
    far.dispose()


# --- the driver


@pytest.fixture
def driver(postgres_bench: Bench) -> Iterator[psycopg.Connection[Any]]:
    url = str(postgres_bench.url).replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        yield connection


@pytest.fixture
def pipeline(driver: psycopg.Connection[Any]) -> Pipeline:
    return Pipeline(driver)
