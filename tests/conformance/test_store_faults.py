"""A database that dies, hangs or loses its answers: every call ends, nothing is half written, the store finds back."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import pytest

from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Changes, Store
from segue.errors import ConfigError, Fenced, StoreUnavailable
from segue.observe import Logging
from tests.conformance.store_kit import (
    COORDINATOR,
    P0,
    Bench,
    event,
    history,
    locked,
    message,
    move,
    offset,
    saga,
    write,
)
from tests.real.proxy import Mode, Proxy

_KILL_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _step(store: Store, *, before_commit: Any = lambda: None) -> None:
    """One batch as a coordinator writes it."""
    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(5, 6)])
        batch.write(Changes(started=[saga()], events=[event(message_id="m-1")], messages=[message("a")]))
        before_commit()


# The backend dies


def test_a_backend_that_dies_before_a_statement_makes_the_batch_unavailable_and_the_next_one_works(
    postgres_bench: Bench,
) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])

    def run() -> None:
        with store.batch() as batch:
            row = batch.lock(["o-1"])["o-1"]
            postgres_bench.sql(_KILL_OTHERS)
            batch.write(Changes(updated=[row]))

    with pytest.raises(StoreUnavailable):
        run()
    assert locked(store, "o-1") == {"o-1": saga()}


def test_a_backend_that_dies_before_commit_leaves_nothing(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5)})

    with pytest.raises(StoreUnavailable, match="outcome of COMMIT is unknown"):
        _step(store, before_commit=lambda: postgres_bench.sql(_KILL_OTHERS))

    assert locked(store, "o-1") == {}
    _step(store)
    assert store.offsets(COORDINATOR)[P0].next == 6


def test_a_backend_that_dies_between_batches_costs_one_failure(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])
    postgres_bench.sql(_KILL_OTHERS)

    with pytest.raises(StoreUnavailable):
        store.now()
    assert locked(store, "o-1") == {"o-1": saga()}


def test_a_backend_that_died_before_a_transaction_of_one_trip_costs_one_failure(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    store.forget_published([1])
    postgres_bench.sql(_KILL_OTHERS)

    with pytest.raises(StoreUnavailable):
        store.forget_published([1])
    store.forget_published([1])


# The answer is lost


@pytest.mark.parametrize("how", ["cut", "commit"])
def test_a_lost_reply_to_commit_is_an_unknown_outcome_and_running_it_again_is_harmless(
    postgres_bench: Bench, far: Store, proxy: Proxy, observer: Logging, how: Mode
) -> None:
    far.seed_offsets(COORDINATOR, {P0: offset(5)})

    def cut() -> None:
        proxy.mode = how

    with pytest.raises(StoreUnavailable, match="outcome of COMMIT is unknown"):
        _step(far, before_commit=cut)
    proxy.mode = "pass"

    assert observer.counts["store.unavailable"] == 1
    with pytest.raises(Fenced):
        _step(far)
    assert locked(far, "o-1") == {"o-1": saga()}, "the commit had happened"
    assert history(far) == [event(message_id="m-1")]
    assert far.offsets(COORDINATOR)[P0].next == 6


def test_a_black_holed_reply_ends_with_the_call_timeout(far: Store, proxy: Proxy, observer: Logging) -> None:
    write(far, started=[saga()])

    def run() -> None:
        with far.batch() as batch:
            proxy.mode = "swallow"
            batch.lock(["o-1"])

    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        run()
    assert observer.counts == {"store.call_cut": 1, "store.unavailable": 1}
    proxy.mode = "pass"
    assert locked(far, "o-1") == {"o-1": saga()}


def test_a_black_holed_commit_ends_with_the_call_timeout_as_an_unknown_outcome(far: Store, proxy: Proxy) -> None:
    far.seed_offsets(COORDINATOR, {P0: offset(5)})

    def swallow() -> None:
        proxy.mode = "swallow"

    with pytest.raises(StoreUnavailable, match="outcome of COMMIT is unknown"):
        _step(far, before_commit=swallow)
    proxy.mode = "pass"

    assert locked(far, "o-1") == {"o-1": saga()}


def test_calls_that_are_quick_are_never_cut_however_long_their_batch(far: Store, observer: Logging) -> None:
    with far.batch() as batch:
        for _ in range(40):
            # Each takes a tenth of the timeout; together they take four of it.
            batch._session.drive([("SELECT pg_sleep(0.1)", [])])  # type: ignore[attr-defined]
    assert observer.counts == {}


def test_a_server_that_accepts_and_says_nothing_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = SqlStore(f"postgresql+psycopg://x@127.0.0.1:{port}/x", call_timeout=timedelta(seconds=1))
        with pytest.raises(StoreUnavailable):
            store.now()
        store.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    store = SqlStore(f"postgresql+psycopg://x@127.0.0.1:{port}/x")
    with pytest.raises(StoreUnavailable):
        store.now()
    store.close()


def test_a_statement_that_the_server_cancels_is_unavailable(postgres_bench: Bench) -> None:
    store = postgres_bench.store(call_timeout=timedelta(milliseconds=400))
    with pytest.raises(StoreUnavailable), store.batch() as batch:
        batch._session.drive([("SELECT pg_sleep(20)", [])])  # type: ignore[attr-defined]


# SQLite


def test_a_full_disk_is_unavailable_and_leaves_nothing(sqlite_url: str) -> None:
    from segue.migrations import upgrade

    upgrade(sqlite_url)
    store = SqlStore(sqlite_url, pool_size=1)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    with pytest.raises(StoreUnavailable, match="full"):
        write(store, started=[saga(input=b"x" * 1_000_000)])
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert locked(store, "o-1") == {}
    store.close()


def test_a_directory_that_is_not_there_is_unavailable() -> None:
    store = SqlStore("sqlite:////nowhere/at/all/segue.sqlite")
    with pytest.raises(StoreUnavailable):
        store.now()
    store.close()


def test_what_sqlite_committed_is_there_for_the_next_process(sqlite_url: str) -> None:
    from segue.migrations import upgrade

    upgrade(sqlite_url)
    first, second = SqlStore(sqlite_url), SqlStore(sqlite_url)
    write(first, started=[saga()])
    first.close()
    assert locked(second, "o-1") == {"o-1": saga()}
    second.close()


# Settings


def test_a_database_without_our_tables_says_what_to_do(sqlite_url: str, postgres_url: str) -> None:
    for url in (sqlite_url, postgres_url):
        store = SqlStore(url)
        with pytest.raises(ConfigError, match="segue db upgrade"):
            write(store, started=[saga()])
        store.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql+pymysql://x@y/z", "postgresql+asyncpg://x:secret@y/z"])
def test_a_url_of_no_database_of_ours_is_a_configuration_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqlStore(url)
    assert "secret" not in str(caught.value)
