"""Statements in one round trip: answers in order, errors where they belong, and a transaction that the server times."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from segue.coordinator.store import Changes
from segue.errors import RejectedWrite, StoreUnavailable
from segue.outbox.pipeline import Pipeline
from tests.conformance.store_kit import Bench, locked, saga, write


def test_each_statement_gets_its_own_answer_also_when_it_is_prepared_already(pipeline: Pipeline) -> None:
    for number in range(3):
        one, none, three = pipeline.run(
            [
                ("SELECT $1::int + 1", [number]),
                ("SELECT 1 WHERE $1::text = 'x'", ["y"]),
                ("SELECT * FROM unnest($1::bytea[], $2::text[])", ['{"\\\\x00ff",NULL}', '{a,"b,c"}']),
            ]
        )
        assert one.rows() == [(number + 1,)]
        assert (none.rows(), none.count) == ([], 0)
        assert three.rows() == [(b"\x00\xff", "a"), (None, "b,c")]


def test_what_is_larger_than_all_buffers_in_both_directions_gets_through(pipeline: Pipeline) -> None:
    large = b"x" * 3_000_000

    answers = pipeline.run([("SELECT $1::bytea, $2::int", [large, number]) for number in range(8)])

    assert [answer.rows() for answer in answers] == [[(large, number)] for number in range(8)]


def test_an_error_stops_what_comes_after_it_and_the_statements_work_afterwards(
    pipeline: Pipeline, driver: psycopg.Connection[Any]
) -> None:
    driver.execute("CREATE TEMPORARY TABLE t (n int)")
    insert, fail = "INSERT INTO t VALUES ($1)", "SELECT 1 / $1::int"

    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.run([("BEGIN", []), (insert, [1]), (fail, [0]), (insert, [2]), ("SELECT 1", [])])
    pipeline.run([("ROLLBACK", [])])
    inserted, divided, _, counted = pipeline.run(
        [(insert, [3]), (fail, [1]), ("SELECT 1", []), ("SELECT count(*), max(n) FROM t", [])]
    )

    assert (inserted.count, divided.rows(), counted.rows()) == (1, [(1,)], [(1, 3)])


def test_a_text_with_a_nul_is_refused_before_anything_is_sent(pipeline: Pipeline) -> None:
    with pytest.raises(RejectedWrite, match="NUL"):
        pipeline.run([("SELECT 1", []), ("SELECT $1::text", ["a\x00b"])])
    with pytest.raises(UnicodeEncodeError):
        pipeline.run([("SELECT 1", []), ("SELECT $1::text", ["\ud800"])])

    assert pipeline.run([("SELECT 1", [])])[0].rows() == [(1,)]


def test_a_transaction_that_idles_after_a_pipeline_is_ended_by_the_server(
    pipeline: Pipeline, driver: psycopg.Connection[Any], postgres_bench: Bench
) -> None:
    driver.execute("SET idle_in_transaction_session_timeout = 50")
    pipeline.run([("BEGIN", []), ("SELECT pg_advisory_xact_lock(7)", [])])

    # Waits for as long as the lock is held.
    postgres_bench.sql("SELECT pg_advisory_xact_lock(7)")

    with pytest.raises(psycopg.OperationalError):
        pipeline.run([("SELECT 1", [])])


def test_a_connection_without_its_prepared_statements_costs_one_failure(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])
    assert locked(store, "o-1") == {"o-1": saga()}

    def forgetful() -> None:
        with store.batch() as batch:
            batch._session.drive([("DEALLOCATE ALL", [])])  # type: ignore[attr-defined]
            batch.write(Changes(updated=[batch.lock(["o-1"])["o-1"]]))

    with pytest.raises(StoreUnavailable, match="prepared statement"):
        forgetful()
    assert locked(store, "o-1") == {"o-1": saga()}


def test_a_column_that_a_migration_widens_costs_one_failure(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])
    assert locked(store, "o-1") == {"o-1": saga()}

    postgres_bench.sql("DROP VIEW IF EXISTS saga_readable, saga_event_readable")  # they hold on to the column
    postgres_bench.sql("ALTER TABLE saga ALTER COLUMN step TYPE text")

    with pytest.raises(StoreUnavailable, match="cached plan"):
        locked(store, "o-1")
    assert locked(store, "o-1") == {"o-1": saga()}
