"""Two coordinators on one database: whoever comes second waits, is fenced, or takes something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from segue.coordinator.audit import verify_audit
from segue.coordinator.store import Changes, Store
from segue.errors import Fenced, StoreUnavailable
from tests.conformance.store_kit import (
    COORDINATOR,
    P0,
    P1,
    T0,
    Bench,
    alone,
    audit,
    due,
    event,
    history,
    letter,
    locked,
    message,
    move,
    offset,
    request,
    saga,
    write,
)

PATIENT = timedelta(seconds=15)


class Other:
    """Another process: runs a function in a thread of its own, and tells when it has begun."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._begun = threading.Event()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def begin(self, run: Callable[[], Any]) -> Future[Any]:
        def task() -> Any:
            self._begun.set()
            return run()

        future = self._pool.submit(task)
        assert self._begun.wait(10)
        return future


def _fence(store: Store, start: int, end: int) -> None:
    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(start, end)])


def test_of_two_that_move_the_same_offset_one_is_fenced(sql_bench: Bench) -> None:
    first, second = sql_bench.store(lock_timeout=PATIENT), sql_bench.store(lock_timeout=PATIENT)
    first.seed_offsets(COORDINATOR, {P0: offset(5)})

    with Other() as other:
        with first.batch() as batch:
            batch.fence(COORDINATOR, [move(5, 6)])
            rival = other.begin(lambda: _fence(second, 5, 7))
        with pytest.raises(Fenced):
            rival.result(20)

    assert first.offsets(COORDINATOR)[P0].next == 6


def test_a_fence_that_waited_for_one_that_was_rolled_back_succeeds(sql_bench: Bench) -> None:
    first, second = sql_bench.store(lock_timeout=PATIENT), sql_bench.store(lock_timeout=PATIENT)
    first.seed_offsets(COORDINATOR, {P0: offset(5)})

    def give_up(other: Other) -> Future[Any]:
        with first.batch() as batch:
            batch.fence(COORDINATOR, [move(5, 6)])
            rivals.append(other.begin(lambda: _fence(second, 5, 7)))
            raise KeyboardInterrupt

    rivals: list[Future[Any]] = []
    with Other() as other:
        with pytest.raises(KeyboardInterrupt):
            give_up(other)
        rivals[0].result(20)

    assert first.offsets(COORDINATOR)[P0].next == 7


def test_a_locked_saga_is_seen_by_the_next_as_it_stands_after_the_first(sql_bench: Bench) -> None:
    first, second = sql_bench.store(lock_timeout=PATIENT), sql_bench.store(lock_timeout=PATIENT)
    write(first, started=[saga()])

    with Other() as other:
        with first.batch() as batch:
            row = batch.lock(["o-1"])["o-1"]
            rival = other.begin(lambda: locked(second, "o-1"))
            batch.write(Changes(updated=[msgspec.structs.replace(row, revision=2, step="ship")]))
        assert rival.result(20) == {"o-1": saga(revision=2, step="ship")}


def test_of_two_that_start_the_same_saga_one_is_fenced(sql_bench: Bench) -> None:
    first, second = sql_bench.store(lock_timeout=PATIENT), sql_bench.store(lock_timeout=PATIENT)

    with Other() as other:
        with first.batch() as batch:
            batch.write(Changes(started=[saga(step="first")], events=[event()]))
            rival = other.begin(lambda: write(second, started=[saga(step="second")], events=[event()]))
        with pytest.raises(Fenced):
            rival.result(20)

    assert locked(first, "o-1") == {"o-1": saga(step="first")}


def test_of_two_that_move_a_saga_from_the_same_revision_one_is_fenced(postgres_bench: Bench) -> None:
    first, second = postgres_bench.store(), postgres_bench.store()
    write(first, started=[saga()], events=[event()])

    def second_comes_late() -> None:
        with second.batch() as batch:
            assert batch.revisions(["o-1"]) == {"o-1": 1}
            write(first, updated=[saga(revision=2, step="first")], events=[event(seq=2)])
            batch.write(Changes(updated=[saga(revision=2, step="second")], events=[event(seq=2)]))

    with pytest.raises(Fenced):
        second_comes_late()

    assert locked(first, "o-1") == {"o-1": saga(revision=2, step="first")}
    assert len(history(first)) == 2


@pytest.mark.parametrize(
    "take",
    [
        lambda store: locked(store, "a", "B"),
        lambda store: write(store, updated=[saga(name, revision=2) for name in ("a", "B")]),
    ],
    ids=["lock", "update"],
)
def test_sagas_are_locked_in_one_order_however_the_database_sorts_texts(
    postgres_bench: Bench, take: Callable[[Store], Any]
) -> None:
    """Else two coordinators, one that loads what the other has in memory, would wait for each other."""
    store = postgres_bench.store()
    postgres_bench.sql("DROP VIEW IF EXISTS saga_readable, saga_event_readable")  # they hold on to the column
    postgres_bench.sql('ALTER TABLE saga ALTER COLUMN id TYPE varchar(255) COLLATE "en-x-icu"')
    write(store, started=[saga(name) for name in ("a", "B")])
    assert postgres_bench.url is not None
    with alone(postgres_bench.url) as holder:
        holder.execute(text("SELECT 1 FROM saga WHERE id = 'B' FOR UPDATE"))
        with pytest.raises(StoreUnavailable):
            take(store)
        # Whoever locks a row leaves his mark there, even if he is rolled back.
        assert holder.execute(text("SELECT xmax::text FROM saga WHERE id = 'a'")).scalar_one() == "0"


def test_due_sagas_that_another_has_locked_are_skipped(postgres_bench: Bench) -> None:
    first, second = postgres_bench.store(), postgres_bench.store()
    write(first, started=[saga(name, wake_at=T0) for name in ("a", "b", "c")])

    with first.batch() as mine, second.batch() as theirs:
        assert due(mine, limit=2) == ["a", "b"]
        assert due(theirs) == ["c"]


def test_requests_and_letters_that_another_has_locked_are_skipped(postgres_bench: Bench) -> None:
    first, second = postgres_bench.store(), postgres_bench.store()
    ids = first.ask([request(), request()])
    write(first, started=[saga()], dead_letters=[letter(n, state="parked", saga_id="o-1") for n in (1, 2)])

    with first.batch() as mine, second.batch() as theirs:
        assert [row.id for row in mine.requests(COORDINATOR, 1)] == ids[:1]
        assert [row.id for row in theirs.requests(COORDINATOR, 10)] == ids[1:]
        assert [row.record.offset for row in mine.foldable(COORDINATOR, ["order"], 1)] == [1]
        assert [row.record.offset for row in theirs.foldable(COORDINATOR, ["order"], 10)] == [2]
        assert second.sweep(COORDINATOR, T0 + timedelta(days=1), 10) == 0, "both are in hands"


def test_the_lock_of_a_frozen_coordinator_is_waited_for_no_longer_than_the_lock_timeout(sql_bench: Bench) -> None:
    frozen, other = sql_bench.store(), sql_bench.store()
    write(frozen, started=[saga("o-1"), saga("o-2")])

    with frozen.batch() as batch:
        batch.lock(["o-1"])
        with pytest.raises(StoreUnavailable):
            locked(other, "o-1")
        if sql_bench.kind == "postgres":
            assert locked(other, "o-2") == {"o-2": saga("o-2")}, "others' sagas go on"

    assert locked(other, "o-1") == {"o-1": saga("o-1")}


def test_a_frozen_coordinator_loses_its_locks_and_can_not_commit_when_it_wakes(postgres_bench: Bench) -> None:
    frozen = postgres_bench.store(call_timeout=timedelta(seconds=1))
    other = postgres_bench.store(lock_timeout=PATIENT)
    write(frozen, started=[saga()])

    def freeze() -> None:
        with frozen.batch() as batch:
            row = batch.lock(["o-1"])["o-1"]
            # Waits until the server has ended the idle transaction of the frozen one.
            write(other, updated=[saga(revision=2, step="other")])
            batch.write(Changes(updated=[msgspec.structs.replace(row, revision=2, step="frozen")]))

    with pytest.raises(StoreUnavailable):
        freeze()
    assert locked(frozen, "o-1")["o-1"].step == "other"


def test_a_coordinator_frozen_after_it_has_written_loses_its_locks_too(postgres_bench: Bench) -> None:
    frozen = postgres_bench.store(call_timeout=timedelta(seconds=1))
    other = postgres_bench.store(lock_timeout=PATIENT)
    write(frozen, started=[saga()])

    def freeze() -> None:
        with frozen.batch() as batch:
            row = batch.lock(["o-1"])["o-1"]
            update = msgspec.structs.replace(row, revision=2, step="frozen")
            batch.write(Changes(updated=[update], events=[event(seq=2)], messages=[message("m-2")]))
            # Waits until the server has ended the transaction of the frozen one, which only has to commit.
            write(other, updated=[saga(revision=2, step="other")])

    with pytest.raises(StoreUnavailable):
        freeze()
    assert locked(frozen, "o-1")["o-1"].step == "other"


def test_partitions_in_any_order_never_deadlock(postgres_bench: Bench) -> None:
    first, second = postgres_bench.store(lock_timeout=PATIENT), postgres_bench.store(lock_timeout=PATIENT)
    first.seed_offsets(COORDINATOR, {P0: offset(0), P1: offset(0)})

    def push(store: Store, upside_down: bool) -> int:
        moved = 0
        for _ in range(30):
            offsets = store.offsets(COORDINATOR)
            moves = [move(offsets[p].next, offsets[p].next + 1, p) for p in (P0, P1)]
            try:
                with store.batch() as batch:
                    batch.fence(COORDINATOR, moves[::-1] if upside_down else moves)
                moved += 1
            except Fenced:
                pass
        return moved

    with Other() as other:
        rival = other.begin(lambda: push(second, True))
        moved = push(first, False) + rival.result(30)

    assert {stored.next for stored in first.offsets(COORDINATOR).values()} == {moved}


# The audit


def test_the_role_of_a_request_is_what_the_database_says_and_not_what_the_client_claims(sql_bench: Bench) -> None:
    store = sql_bench.store()
    store.ask([request(database_role="mallory", system_user="ann@host"), request()])
    with store.batch() as batch:
        found = [(one.database_role, one.system_user) for one in batch.requests(COORDINATOR, 10)]
    if sql_bench.url is not None and sql_bench.url.startswith("postgresql"):
        [row] = sql_bench.sql("SELECT session_user AS role")
        assert found == [(row.role, "ann@host"), (row.role, None)]
    else:
        assert found == [(None, "ann@host"), (None, None)]


def test_the_role_of_who_writes_an_audit_line_by_hand_is_what_the_database_says(sql_bench: Bench) -> None:
    store = sql_bench.store()
    write(store, audits=[audit("skip", request_id=None, system_user="ann@host", database_role="mallory")])
    [line] = sql_bench.sql("SELECT database_role, system_user FROM audit")
    assert sql_bench.url is not None
    if sql_bench.url.startswith("postgresql"):
        [row] = sql_bench.sql("SELECT session_user AS role")
        assert (line.database_role, line.system_user) == (row.role, "ann@host")
    else:
        assert (line.database_role, line.system_user) == (None, "ann@host")


def test_audit_entries_of_several_writers_form_one_chain(sql_bench: Bench) -> None:
    stores = [sql_bench.store(lock_timeout=PATIENT) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(write, store, audits=[audit("a"), audit("b")]) for store in stores for _ in range(4)]
        for task in tasks:
            task.result(30)
    stores[0].seed_offsets(COORDINATOR, {P0: offset(7)})
    stores[0].reset_offset(COORDINATOR, P0, offset(7), offset(1), audit("reset", before="7", after="1", saga_id=None))

    assert sql_bench.url is not None
    with alone(sql_bench.url) as connection:
        assert verify_audit(connection) is None
    assert [row.seq for row in sql_bench.sql("SELECT seq FROM audit ORDER BY seq")] == list(range(1, 26))


@pytest.mark.parametrize(
    ("tampering", "broken"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE seq = 2", 2),
        ("UPDATE audit SET \"at\" = '2026-01-01 12:00:00.123457' WHERE seq = 3", 3),
        ("DELETE FROM audit WHERE seq = 2", 3),
        ("DELETE FROM audit WHERE seq = 1", 2),
        ("UPDATE audit SET previous_hash = '0' WHERE seq = 1", 1),
    ],
)
def test_a_line_of_the_audit_that_was_changed_or_removed_is_found(
    sql_bench: Bench, tampering: str, broken: int
) -> None:
    write(sql_bench.store(), audits=[audit(action, request_id=n) for n, action in enumerate("abc")])
    sql_bench.sql(tampering)

    assert sql_bench.url is not None
    with alone(sql_bench.url) as connection:
        assert verify_audit(connection) == broken
