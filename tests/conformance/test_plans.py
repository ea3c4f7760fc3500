"""Plans of the hot statements as PostgreSQL makes and keeps them while its tables are empty: by key, never all rows."""

from __future__ import annotations

import itertools
import re
from datetime import timedelta

import pytest
from sqlalchemy import Connection, create_engine, text

from segue.coordinator import statements
from segue.coordinator.engine import open_engine
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Changes
from segue.migrations import upgrade
from segue.outbox import metadata, postgres
from tests.conformance.loop_statements import (
    NOT_ASKED,
    Plans,
    ask_everything,
    empty,
    fill,
    methods_of_the_port,
    recorded,
)
from tests.conformance.store_kit import Bench, event, message, saga, write

OF_THE_COORDINATOR = (
    statements.PG_LOCK,
    statements.PG_SEEN,
    statements.PG_HISTORY,
    statements.PG_UPDATE_SAGAS,
    statements.PG_DELETE_BATCHES,
    statements.PG_HEARTBEATS,
    statements.PG_FORGET_HEARTBEATS,
)
OF_A_SERVICE = (
    postgres._LOCK_FENCES,
    postgres._update_text(("invoke_outcome", "attempt")),
    postgres._put_text(("invoke_outcome", "attempt")),
    postgres._DELETE,
)


def kept_plan(connection: Connection, statement: str) -> str:
    """As a prepared statement is planned for any parameters."""
    numbers = itertools.count(1)
    statement = re.sub("%s", lambda _: f"${next(numbers)}", statement)
    connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql("DEALLOCATE ALL")
    connection.exec_driver_sql(f"PREPARE hot AS {statement}")
    count = max(int(number) for number in re.findall(r"\$(\d+)", statement))
    return "\n".join(connection.execute(text(f"EXPLAIN EXECUTE hot({', '.join(['NULL'] * count)})")).scalars())


def by_key(plan: str) -> bool:
    return not re.search(r"Seq Scan|Hash Join|Merge Join|Join Filter|Materialize", plan)


@pytest.mark.parametrize("statement", OF_THE_COORDINATOR)
def test_a_coordinator_finds_rows_by_key_however_empty_its_tables_were(postgres_url: str, statement: str) -> None:
    own = f"{postgres_url}?options=-csearch_path%3Dsegue"  # as new deployments have it
    upgrade(own)
    patience = timedelta(seconds=10)
    engine = open_engine(own, pool_size=1, lock_timeout=patience, call_timeout=patience)
    try:
        with engine.connect() as connection:
            plan = kept_plan(connection, statement)
    finally:
        engine.dispose()
    assert by_key(plan), plan


@pytest.mark.parametrize("planned", ["while the tables were empty", "freshly filled", "analysed"])
def test_no_statement_of_the_loop_visits_all_rows(postgres_bench: Bench, planned: str) -> None:
    store = postgres_bench.store(pool_size=1)
    assert isinstance(store, SqlStore)
    engine = store._engine
    with recorded(engine) as found:
        called = ask_everything(store, engine)
    assert methods_of_the_port() - called <= NOT_ASKED
    asked = list(found.values())
    with engine.connect() as connection, connection.begin():
        empty(connection)
        if planned == "while the tables were empty":
            plans = Plans(connection, asked)
            fill(connection)
        else:
            fill(connection)
            if planned == "analysed":
                connection.exec_driver_sql("ANALYZE")
            plans = Plans(connection, asked)
        for each in asked:
            rows, plan = plans.visited(each)
            assert rows < 100, f"{rows} rows for {each.statement}\n{plan}"


def test_a_page_of_due_sagas_is_found_in_its_order_and_not_compiled_first(postgres_url: str) -> None:
    own = f"{postgres_url}?options=-csearch_path%3Dsegue"  # as new deployments have it
    upgrade(own)
    patience = timedelta(seconds=10)
    engine = open_engine(own, pool_size=1, lock_timeout=patience, call_timeout=patience)
    try:
        with engine.connect() as connection:
            plan = kept_plan(connection, statements.pg_due("bench", (("transfer", 1), ("nap", 2))))
    finally:
        engine.dispose()
    assert "Index Scan using saga_alarm_at on saga" in plan
    assert not re.search("JIT|Sort", plan), plan


def test_the_server_plans_nothing_for_a_transition_that_it_has_planned_before(postgres_bench: Bench) -> None:
    store = postgres_bench.store(pool_size=1)
    assert isinstance(store, SqlStore)
    write(store, started=[saga()])
    for number in range(1, 12):
        with store.batch() as batch:
            batch.lock(["o-1"])
            batch.write(
                Changes(
                    updated=[saga(revision=number + 1)],
                    expected={"o-1": number},
                    events=[event(seq=number)],
                    messages=[message(f"m-{number}")],
                    published=[number - 1],
                )
            )
    with store._engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements")
        planned = {statement: (generic, custom) for statement, generic, custom in found}
    hot = (statements.PG_LOCK, statements.PG_UPDATE_SAGAS, statements.PG_INSERT_EVENTS, statements.PG_DELETE_BATCHES)
    assert [planned[statement] for statement in hot] == [(11, 0)] * 4


@pytest.mark.parametrize("statement", OF_A_SERVICE)
def test_a_service_finds_rows_by_key_however_empty_its_tables_were(postgres_url: str, statement: str) -> None:
    engine = create_engine(postgres_url)
    try:
        metadata.create_all(engine)
        with engine.connect() as connection:
            plan = kept_plan(connection, statement)
    finally:
        engine.dispose()
    assert by_key(plan), plan


def test_a_page_of_a_backlog_is_read_in_its_order_however_empty_the_outbox_was(postgres_url: str) -> None:
    held = "AND seq NOT IN (SELECT unnest(%s::bigint[]))"
    engine = create_engine(postgres_url)
    try:
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(postgres._UNSORTED)
            plan = kept_plan(connection, f"{postgres._load_text(('id', 'payload'))} {held} {postgres._OLDEST}")
    finally:
        engine.dispose()
    assert "Index Scan using outbox_pkey on outbox" in plan
    assert "Sort" not in plan, plan
