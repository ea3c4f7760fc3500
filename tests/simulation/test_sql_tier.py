"""The tier on the product's SQL: it finds nothing, comes to the same ends as the other, and its driver is SQLite."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table

from tests.simulation.driver import PATIENCE, File, Link, Slot, template
from tests.simulation.mutants import hunt
from tests.simulation.plan import calm, draw
from tests.simulation.system import MEMORY, SQL, System, Tier, run
from tests.simulation.tape import Choices, Tape
from tests.simulation.world import SECOND, Process, World

#: When a COMMIT is done that its process has given up.
LATE = 32 * SECOND
PARTS = 2
PER_PART = 10


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_of_fixed_seeds_violates_an_invariant(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        outcome = run(Tape(seed), SQL)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}"
        seen.update(outcome.faults)
        seen.update(outcome.points)
    assert seen["locked"], "nobody ever waited for somebody else's transaction"
    assert seen["resent"] + seen["relay.published"], "everything came through at the first try"


def test_a_seed_gives_the_same_trace_every_time() -> None:
    for seed in range(3):
        first, second = run(Tape(seed), SQL), run(Tape(seed), SQL)
        assert (first.digest, first.turns, first.faults) == (second.digest, second.turns, second.faults)


def ends(seed: int, tier: Tier) -> Any:
    """What the sagas and the services have at the end of a schedule in which nothing goes wrong."""
    plan = calm(draw(Tape(seed).stream("plan")))
    random.seed(seed)
    system = System(Tape(seed), tier, plan)
    try:
        system.run()
    finally:
        system.close()
    tables = system.database.tables
    return (
        {row.id: (row.status, row.result, row.error_code, row.revision) for row in tables.sagas.values()},
        {saga_id: [event.type for event in events] for saga_id, events in tables.events.items()},
        {name: dict(books.effects) for name, books in system.books.items()},
    )


@pytest.mark.parametrize("part", range(2))
def test_without_faults_both_tiers_come_to_the_same_histories_and_effects(part: int) -> None:
    for seed in range(100 + 8 * part, 108 + 8 * part):
        assert ends(seed, SQL) == ends(seed, MEMORY), f"seed {seed}"


@pytest.mark.parametrize("name", ["sql_unpublished", "sql_stored_reply"])
def test_a_broken_statement_is_seen(name: str) -> None:
    verdict = hunt(name, limit=100, seconds=60)
    assert verdict.oracle is not None, f"{verdict.schedules} schedules saw nothing: {verdict.breaks}"


# --- the driver


class Someone(Process):
    """A process that runs what it is given, once."""

    def __init__(self, file: File, name: str, what: Any) -> None:
        super().__init__(file.world, name)
        slot = Slot()
        slot.lead_to(file, self)
        self.link = Link(slot)
        self.what = what
        self.start()

    def boot(self) -> None:
        pass

    def turn(self) -> bool:
        what, self.what = self.what, None
        if what is not None:
            what(self, self.link)
        return False

    def more(self) -> bool:
        return False

    def next_time(self) -> int:
        return 1 << 62


def a_file(choices: Choices) -> File:
    metadata = MetaData()
    Table("t", metadata, Column("n", Integer))
    return File(World(Tape(0, choices)), template(metadata))


@pytest.fixture
def file() -> File:
    return a_file({})


def rows(file: File) -> list[int]:
    return [n for (n,) in file.raw.execute("SELECT n FROM t")]


def test_a_statement_waits_till_the_transaction_of_another_one_is_over(file: File) -> None:
    told: list[Any] = []

    def first(process: Process, link: Link) -> None:
        link.cursor().execute("INSERT INTO t VALUES (1)")
        process.sleep(1_000_000)
        link.commit()

    def second(process: Process, link: Link) -> None:
        found = link.cursor().execute("SELECT n FROM t").fetchall()
        told.append((process.world.now, found))

    Someone(file, "first", first)
    Someone(file, "second", second)
    file.world.run(PATIENCE)
    assert told == [(1_000_000, [(1,)])]


def test_whoever_waits_too_long_is_told_that_the_database_is_locked(file: File) -> None:
    told: list[Any] = []

    def second(process: Process, link: Link) -> None:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            link.cursor().execute("INSERT INTO t VALUES (2)")
        told.append(process.world.now)

    def first(process: Process, link: Link) -> None:
        link.cursor().execute("INSERT INTO t VALUES (1)")
        process.sleep(2 * PATIENCE)
        link.commit()

    Someone(file, "first", first)
    Someone(file, "second", second)
    file.world.run(3 * PATIENCE)
    assert (told, rows(file)) == ([PATIENCE], [1])


@pytest.mark.parametrize(
    ("outcome", "found"),
    [(0, [(SECOND, [2])]), (1, [(SECOND, [1, 2])]), (2, [(LATE, [1])])],
    ids=("never", "now", "late"),
)
def test_a_commit_without_an_answer_is_rolled_back_or_done_or_done_later(outcome: int, found: Any) -> None:
    """The second boundary of the first process is its COMMIT; till that is done, its rows are locked."""
    file = a_file({"first": {-2: 1, 1: outcome}})
    file.world.enabled = frozenset(("db.hangs",))
    told: list[int] = []
    seen: list[tuple[int, list[int]]] = []

    def first(process: Process, link: Link) -> None:
        link.cursor().execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="I/O"):
            link.commit()
        link.rollback()
        told.append(process.world.now)

    def second(process: Process, link: Link) -> None:
        process.sleep(SECOND)
        with suppress(sqlite3.OperationalError):
            link.cursor().execute("INSERT INTO t VALUES (2)")
            link.commit()
        if outcome == 2:
            process.sleep(LATE - process.world.now)
        seen.append((process.world.now, rows(file)))

    Someone(file, "first", first).stream.arm(0.0)
    Someone(file, "second", second)
    file.world.run(60 * SECOND)
    assert (seen, file.holder) == (found, None)
    assert 30 * SECOND <= told[0] < 31 * SECOND


def test_a_statement_without_an_answer_holds_its_transaction_till_it_is_given_up() -> None:
    file = a_file({"first": {-2: 1}})
    file.world.enabled = frozenset(("db.hangs",))
    told: list[tuple[int, bool]] = []

    def first(process: Process, link: Link) -> None:
        link.cursor().execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="I/O"):
            link.cursor().execute("INSERT INTO t VALUES (2)")
        told.append((process.world.now, link.in_transaction))
        link.rollback()

    Someone(file, "first", first).stream.arm(0.0)
    file.world.run(60 * SECOND)
    [(when, held)] = told
    assert (held, file.holder, rows(file)) == (True, None, [])
    assert 30 * SECOND <= when < 31 * SECOND


def test_an_errand_is_run_when_no_transaction_is_open(file: File) -> None:
    told: list[int] = []

    def first(process: Process, link: Link) -> None:
        link.cursor().execute("INSERT INTO t VALUES (1)")
        file.soon(lambda: told.append(process.world.now))
        process.sleep(70)
        link.rollback()

    Someone(file, "first", first)
    file.world.run(100)
    assert (told, rows(file)) == ([70], [])


def test_the_database_shows_the_worlds_time_in_milliseconds(file: File) -> None:
    file.world.now = 1_234_567
    [(moment,)] = file.raw.execute("SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    assert moment == "2026-01-01 00:00:01.234000"
