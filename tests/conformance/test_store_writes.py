"""A batch writes all or nothing, and only what every database can hold: on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from segue.coordinator.postgres_batch import PostgresBatch
from segue.coordinator.store import Batch, Changes, SagaRow
from segue.errors import Fenced, RejectedWrite
from segue.outbox.pipeline import Call, Pipeline
from tests.conformance.store_kit import (
    COORDINATOR,
    P0,
    Bench,
    audit,
    event,
    history,
    letter,
    letters,
    locked,
    message,
    move,
    offset,
    saga,
    sent,
    write,
)


class Killed(BaseException):
    pass


def _everything() -> dict[str, Any]:
    return {
        "started": [saga("o-2")],
        "updated": [saga("o-1", revision=2)],
        "events": [event("o-1", 2), event("o-2", 1)],
        "messages": [message("a")],
        "dead_letters": [letter(1)],
        "audits": [audit()],
    }


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_a_block_that_raises_writes_nothing_and_raises_the_same(bench: Bench, error: type[BaseException]) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])
    store.seed_offsets(COORDINATOR, {P0: offset(5)})

    def run() -> None:
        with store.batch() as batch:
            batch.fence(COORDINATOR, [move(5, 6)])
            batch.write(Changes(**_everything()))
            raise error

    with pytest.raises(error):
        run()

    assert locked(store, "o-1", "o-2") == {"o-1": saga("o-1")}
    assert store.offsets(COORDINATOR) == {P0: offset(5)}
    assert history(store) == []
    assert letters(store) == []


def test_a_refused_write_is_rolled_back_even_if_the_block_swallows_the_error(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])

    with pytest.raises(Fenced), store.batch() as batch:
        _swallow(batch, Changes(**_everything() | {"updated": [saga("o-1", revision=7)]}))

    assert locked(store, "o-1", "o-2") == {"o-1": saga("o-1")}
    assert history(store, "o-2") == []


def _swallow(batch: Batch, changes: Changes) -> None:
    try:
        batch.write(changes)
    except Fenced:
        return
    pytest.fail("the write was not refused")


def test_a_batch_run_again_after_an_unknown_commit_is_fenced_and_changes_nothing(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])
    store.seed_offsets(COORDINATOR, {P0: offset(5)})

    def run() -> None:
        with store.batch() as batch:
            batch.fence(COORDINATOR, [move(5, 6)])
            batch.write(Changes(**_everything()))

    run()
    after = (locked(store, "o-1", "o-2"), history(store), letters(store), store.offsets(COORDINATOR))
    with pytest.raises(Fenced):
        run()

    assert (locked(store, "o-1", "o-2"), history(store), letters(store), store.offsets(COORDINATOR)) == after


# Values that no database holds

_REJECTED: dict[str, dict[str, Any]] = {
    "NUL in a text": {"started": [saga("o-9", step="a\x00b")]},
    "NUL in a text beside an empty one": {"started": [saga("o-8"), saga("o-9", step="a\x00b")]},
    "NUL in an id": {"started": [saga("o\x009")]},
    "lone surrogate": {"started": [saga("o-9", error_message="\ud800")]},
    "text too long": {"started": [saga("o-9", tenant="x" * 121)]},
    "integer too large": {"started": [saga("o-9", attempt=2**31)]},
    "bigint too large": {"started": [saga("o-9", revision=2**63)]},
    "attributes that are no JSON": {"started": [saga("o-9", attributes={"a": float("nan")})]},
    "attributes of objects": {"started": [saga("o-9", attributes={"a": object()})]},
    "update with a NUL": {"updated": [saga("o-1", revision=2, waiting_for="\x00")]},
    "event type too long": {"events": [msgspec.structs.replace(event(), type="x" * 61)]},
    "message id that is no uuid": {"messages": [message("a", id="not-a-uuid")]},
    "message header with a NUL in its key": {"messages": [message("a", aggregateid="\x00")]},
    "dead letter reason too long": {"dead_letters": [letter(reason="x" * 61)]},
    "audit with a surrogate": {"audits": [audit(actor="\udfff")]},
}


@pytest.mark.parametrize("what", _REJECTED)
def test_a_value_that_no_database_holds_is_rejected_for_good_and_the_store_goes_on(bench: Bench, what: str) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])

    with pytest.raises(RejectedWrite):
        write(store, **({"events": [event("o-1", 5)]} | _REJECTED[what]))

    assert locked(store, "o-1", "o-9") == {"o-1": saga("o-1")}
    assert history(store) == []


def test_text_that_looks_like_sql_or_an_array_is_only_text(bench: Bench) -> None:
    store = bench.store()
    names = ["'; DROP TABLE saga; --", '{"a",b}', "\\", '"', "NULL", "", " ", "a,b", "\t\n\r\x01", "𝄞é"]
    rows = [saga(f"o-{n}", step=name, error_message=name * 3) for n, name in enumerate(names)]
    write(store, started=rows, events=[event(row.id, 1, row.step) for row in rows])

    assert locked(store, *(row.id for row in rows)) == {row.id: row for row in rows}
    with store.batch() as batch:
        assert batch.seen([(row.id, str(row.step)) for row in rows]) == {(row.id, row.step) for row in rows}


def test_a_thousand_sagas_are_written_and_read_in_one_batch(bench: Bench) -> None:
    store = bench.store()
    rows = [saga(f"o-{n:04}") for n in range(1000)]
    messages = [message(row.id, row.id) for row in rows]
    write(store, started=rows, events=[event(row.id) for row in rows], messages=messages)

    with store.batch() as batch:
        assert len(batch.lock([row.id for row in rows])) == 1000
        assert sum(map(len, batch.history([row.id for row in rows]).values())) == 1000
        batch.write(Changes(updated=[msgspec.structs.replace(row, revision=2) for row in rows]))

    assert {row.revision for row in locked(store, *(row.id for row in rows)).values()} == {2}
    assert bench.taken_over() == sent(*messages)


def test_moments_keep_their_microseconds_and_come_back_in_utc(bench: Bench) -> None:
    store = bench.store()
    moment = datetime.fromisoformat("2026-07-01T23:59:59.999999+05:30")
    write(store, started=[saga(wake_at=moment)])

    found = locked(store, "o-1")["o-1"].wake_at
    assert found == moment
    if bench.kind != "memory":
        assert found is not None
        assert found.isoformat() == "2026-07-01T18:29:59.999999+00:00"


def test_a_saga_that_goes_on_is_updated_without_touching_an_index_of_postgresql(postgres_bench: Bench) -> None:
    store = postgres_bench.store()
    soon = store.now() + timedelta(hours=1)
    write(store, started=[saga(wake_at=soon)])

    def hot(row: SagaRow) -> int:
        with store.batch() as batch:
            assert isinstance(batch, PostgresBatch)
            counted = text("SELECT pg_stat_get_xact_tuples_hot_updated('saga'::regclass) AS n")
            before = int(batch._session.rows(counted)[0].n)
            batch.write(Changes(updated=[row]))
            return int(batch._session.rows(counted)[0].n) - before

    assert hot(saga(revision=2, wake_at=soon + timedelta(hours=1), step="pay", updated_at=soon)) == 1
    assert hot(saga(revision=3, wake_at=soon - timedelta(minutes=1))) == 0


def test_a_transition_takes_two_round_trips_to_postgresql(
    postgres_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])
    made: list[list[str]] = []
    run = Pipeline.run

    def counted(self: Pipeline, calls: list[Call]) -> Any:
        made.append([call[0].split()[0] for call in calls])
        return run(self, calls)

    monkeypatch.setattr(Pipeline, "run", counted)
    with store.batch() as batch:
        batch.lock(["o-1"])
        batch.write(Changes(updated=[saga(revision=2)], events=[event(seq=2)], messages=[message("m")]))
    assert [(calls[0], calls[-1]) for calls in made] == [("BEGIN", "SELECT"), ("WITH", "COMMIT")]


@pytest.mark.parametrize(
    "changes", [{"updated": [saga(revision=7)]}, {"started": [saga()]}], ids=["updated", "started"]
)
def test_who_was_overtaken_writes_nothing_at_all_and_may_go_on(postgres_bench: Bench, changes: dict[str, Any]) -> None:
    store = postgres_bench.store()
    write(store, started=[saga()])
    with pytest.raises(Fenced, match="another process"):
        write(store, events=[event(seq=9)], messages=[message("m")], **changes)
    assert postgres_bench.sql("SELECT seq FROM saga_event") == []
    assert postgres_bench.taken_over() == []
    write(store, updated=[saga(revision=2)])
    assert locked(store, "o-1")["o-1"].revision == 2
