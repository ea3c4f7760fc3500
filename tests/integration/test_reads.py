"""The statements with which people read, on the production database: what SQLite lets pass, PostgreSQL may not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import create_engine, select, text, update

from segue.clock import SYSTEM_CLOCK
from segue.coordinator import schema
from segue.coordinator.queries import DeadLetterFilter, DeadLetterGroupBy, GroupBy, SagaFilter
from segue.coordinator.reads import Reads
from segue.coordinator.store import AuditEntry
from segue.coordinator.verification import size, verify
from segue.coordinator.view import view_saga
from segue.errors import ConfigError, StoreUnavailable
from tests.unit.cli.kit import Database, completed, coordinating, deferred, letter, segue, shipping


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    made = Database(postgres_url)
    yield made
    made.close()


@pytest.fixture
def reads(database: Database) -> Iterator[Reads]:
    made = Reads(database.url)
    yield made
    made.close()


def test_lists_groups_and_pages(database: Database, reads: Reads) -> None:
    moment = SYSTEM_CLOCK.now()
    database.put(*(completed(f"order-{n}") for n in range(3)), started_at=moment)
    database.put(deferred("order-9", ago=timedelta(hours=1)))

    everything = [row.id for row in reads.all_sagas(SagaFilter(), page=2)]
    assert everything == ["order-2", "order-1", "order-0", "order-9"]
    assert [one.row.id for one in reads.sagas(SagaFilter(stuck=True)).items] == ["order-9"]
    wanted = SagaFilter(
        ids=("order-1",),
        statuses=("completed",),
        attentions=("none",),
        definition="order",
        since=moment - timedelta(days=1),
    )
    assert reads.count(wanted) == 1
    for by in get_args(GroupBy):
        assert sum(group.count for group in reads.groups(SagaFilter(), by)) == 4
    assert view_saga(reads, "order-9").why is not None
    assert abs(reads.now() - SYSTEM_CLOCK.now()) < timedelta(minutes=1)


def test_dead_letters(database: Database, reads: Reads) -> None:
    database.letters(letter(1), letter(2, saga_id="order-1"), letter(3, fingerprint="0%_000000000"))

    assert len(list(reads.all_dead_letters(DeadLetterFilter(), page=2))) == 3
    assert [one.record.offset for one in reads.dead_letters(DeadLetterFilter(fingerprint="0%")).items] == [3]
    assert reads.dead_letters(DeadLetterFilter(fingerprint="%")).items == []
    for by in get_args(DeadLetterGroupBy):
        assert sum(group.count for group in reads.dead_letter_groups(DeadLetterFilter(states=("dead",)), by)) == 3


def test_verify_finds_nothing_and_then_what_was_broken(database: Database, reads: Reads) -> None:
    database.put(shipping("order-1", ago=timedelta(seconds=3)), completed("order-2"))
    database.audit(AuditEntry(at=SYSTEM_CLOCK.now(), actor="ann", action="retry"))
    assert list(verify(reads)) == []
    assert size(reads) == 3
    database.execute(update(schema.saga).where(schema.saga.c.id == "order-1").values(wake_at=None))
    database.execute(update(schema.audit).values(actor="bob"))
    assert [(one.check, one.saga_id) for one in verify(reads)] == [("lost", "order-1"), ("audit", None)]


def test_a_reader_can_write_nothing(database: Database, reads: Reads) -> None:
    with pytest.raises(StoreUnavailable, match="read-only transaction"), reads.snapshot() as connection:
        connection.execute(text("DELETE FROM saga"))


def test_a_snapshot_sees_one_moment(database: Database, reads: Reads) -> None:
    with reads.snapshot() as connection:
        before = connection.execute(select(schema.saga.c.id)).all()
        database.put(completed("order-1"))
        assert connection.execute(select(schema.saga.c.id)).all() == before == []


def test_an_operator_acts_and_sees_the_outcome(database: Database) -> None:
    database.put(deferred("order-2"))
    with coordinating(database.url):
        ran = segue("saga", "retry", "order-2", "--database", database.url)
    assert (ran.code, ran.out) == (0, "order-2: retry: done\n")


def test_a_missing_schema_is_said(postgres_url: str) -> None:
    found = Reads(postgres_url)
    with pytest.raises(ConfigError, match="run `segue db upgrade`"):
        found.saga("x")
    found.close()


def test_the_options_of_a_database_url_hold_for_reading_too(postgres_url: str) -> None:
    """As in `?options=-csearch_path=segue`: tables in a schema of their own."""
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA own"))
    engine.dispose()
    url = f"{postgres_url}?options=-csearch_path%3Down"
    made = Database(url)
    made.put(completed("order-1"))
    made.close()

    reads = Reads(url)
    try:
        assert reads.count(SagaFilter()) == 1
    finally:
        reads.close()
