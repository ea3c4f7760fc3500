"""Benches of the store port: the fake, SQLite, PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from segue.coordinator.memory import MemoryStore
from segue.coordinator.sql import SqlStore
from segue.migrations import upgrade
from tests.conformance.store_kit import T0, Bench

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
