"""The views for people, and every query of the page about the tables: on both databases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from segue.coordinator.schema import metadata
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Changes
from segue.migrations import upgrade
from tests.unit.cli.kit import completed, deferred, shipping

PAGE = (Path(__file__).parents[2] / "docs/reference/sql.md").read_text("utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    url = str(request.getfixturevalue(request.param))
    upgrade(url)
    store = SqlStore(url)
    sagas = [shipping("order-1"), deferred("order-2"), completed("order-3")]
    with store.batch() as batch:
        batch.write(Changes(started=[one.row for one in sagas], events=[row for one in sagas for row in one.events]))
    store.close()
    return url


def rows(url: str, query: str) -> list[Any]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        found = list(connection.execute(text(query)))
    engine.dispose()
    return found


def plain(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def test_payloads_of_sagas_can_be_read_and_asked_for(url: str) -> None:
    [row] = rows(url, "SELECT * FROM saga_readable WHERE id = 'order-3'")
    assert (row.status, plain(row.input)["total"], plain(row.result)) == ("completed", "9.50", {"parcel": "p-1"})
    [row] = rows(url, "SELECT * FROM saga_readable WHERE id = 'order-2'")
    assert (row.attention, row.result) == ("deferred", None)


def test_a_history_is_a_row_for_each_thing_that_happened(url: str) -> None:
    found = rows(url, "SELECT * FROM saga_event_readable WHERE saga_id = 'order-1' ORDER BY seq, n")
    assert [(row.seq, row.n, row.event, row.step) for row in found[:5]] == [
        (1, 1, "started", None),
        (1, 2, "stepscheduled", "payments.charge"),
        (1, 3, "commandsent", "payments.charge"),
        (2, 1, "stepsucceeded", "payments.charge"),
        (2, 2, "stepscheduled", "stock.reserve"),
    ]
    assert plain(found[3].body)["output"] == {"charge_id": "ch-1"}


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_every_query_of_the_page_runs(url: str, query: str) -> None:
    if "sqlite" in url and "-- PostgreSQL" in query:
        pytest.skip("for PostgreSQL alone")
    rows(url, query)


def test_the_page_has_every_table() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert set(metadata.tables) <= named
