"""What a coordinator's loop asks PostgreSQL, statement by statement, and how many rows the server visits for each.

Every method of the port is called once, so that no statement is left out; what is kept is what was really sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from psycopg import ClientCursor
from sqlalchemy import Connection, Engine, event

from segue.coordinator.batches import BatchedOutbox
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Batch, Changes, OffsetMove, Store, StoredOffset
from segue.outbox.pipeline import Pipeline
from segue.outbox.store import Exclusion
from tests.conformance.store_kit import (
    COORDINATOR,
    ORDER,
    P0,
    T0,
    audit,
    heartbeat,
    letter,
    message,
    request,
    saga,
    write,
)
from tests.conformance.store_kit import (
    event as happened,
)

#: Not statements of the loop: the first is asked once, when a process starts.
NOT_ASKED = frozenset(("live_versions", "batch", "close", "now"))
_SETS_UP = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SET|SELECT (clock_timestamp|pg_|set_config|nextval|version))", re.I)
#: Tables with some rows however long a coordinator runs: they are read as a whole. Signs of life are those of commands
#: that are under way just now, and are swept once a minute.
SMALL = frozenset(("heartbeat", "consumer_offset", "outbox_batch", "outbox_lane", "outbox_relay"))
#: Sagas, events, dead letters and audit lines of a table that is filled.
MANY = 3_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement as the server is given it, and values as the loop gives them."""

    statement: str
    values: Sequence[Any]


@contextmanager
def recorded(engine: Engine) -> Iterator[dict[str, Asked]]:
    """All statements that are sent over this engine, by their text."""
    asked: dict[str, Asked] = {}
    run = Pipeline.run

    def note(statement: str, values: Sequence[Any]) -> None:
        if not _SETS_UP.match(statement):
            asked.setdefault(statement, Asked(statement, values))

    def of_pipeline(pipeline: Pipeline, calls: Any) -> Any:
        for statement, values in calls:
            note(statement, values)
        return run(pipeline, calls)

    def of_core(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        given = values[0] if isinstance(values, list) else values
        names: list[str | None] = []

        def number(match: re.Match[str]) -> str:
            names.append(match[1])
            return f"${len(names)}"

        numbered = re.sub(r"%(?:\((\w+)\))?s", number, statement).replace("%%", "%")
        note(numbered, [given[n if name is None else name] for n, name in enumerate(names)])

    patch = pytest.MonkeyPatch()
    patch.setattr(Pipeline, "run", of_pipeline)
    event.listen(engine, "before_cursor_execute", of_core)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", of_core)
        patch.undo()


def ask_everything(store: SqlStore, engine: Engine) -> set[str]:
    """Call each method of the port at least once; which were called."""
    called = _batches(store) | _others(store)
    outbox = BatchedOutbox(engine)
    outbox.lease("relay", timedelta(minutes=1))
    rows = outbox.load("relay", 50, memory_first_for=timedelta(0), excluded=Exclusion())
    outbox.delete([row.seq for row in rows])
    outbox.release("relay")
    return called


def _others(store: SqlStore) -> set[str]:
    store.look(COORDINATOR, ORDER)
    store.offsets(COORDINATOR)
    store.seed_offsets(COORDINATOR, {P0: StoredOffset(next=0, topic_id="t")})
    store.reset_offset(COORDINATOR, P0, StoredOffset(next=1, topic_id="t"), StoredOffset(next=0, topic_id="t"), audit())
    store.forget_published([1])
    store.register(COORDINATOR, "order", 1, "f")
    store.ask([request()])
    store.sweep(COORDINATOR, T0, 10)
    store.assign(10, live=True)
    return {"look", "offsets", "seed_offsets", "reset_offset", "forget_published", "register", "ask", "sweep", "assign"}


def _batches(store: SqlStore) -> set[str]:
    with store.batch() as batch:
        batch.write(
            Changes(
                started=[saga("new")],
                events=[happened("new")],
                messages=[message("m-1", "new")],
                dead_letters=[letter()],
            )
        )
    write(store, started=[saga()], events=[happened()])
    store.seed_offsets(COORDINATOR, {P0: StoredOffset(next=0, topic_id="t")})
    [asked] = store.ask([request()])
    with store.batch() as batch:
        batch.fence(COORDINATOR, [OffsetMove(partition=P0, start=0, end=1, topic_id="t")])
        batch.revisions(["o-1"])
        batch.lock(["o-1"])
        batch.history(["o-1"])
        batch.earlier("o-1", 1, 2)
        batch.heartbeats(["c-1"])
        batch.kept_for("o-1")
        batch.seen([("o-1", "x")])
        batch.due(COORDINATOR, T0, 10, ORDER)
        batch.requests(COORDINATOR, 10)
        batch.foldable(COORDINATOR, ["order"], 10)
        batch.message("o-1", "x")
        batch.parked(COORDINATOR, ["o-1"])
        [dead] = batch.dead_letters([1])
        batch.write(
            Changes(
                updated=[saga(revision=2)],
                events=[happened(seq=2)],
                settled={dead: "replayed"},
                replayed=[dead],
                requests_done=[asked],
                audits=[audit()],
                heartbeats=[heartbeat("c-9")],
                heartbeats_over=["c-1"],
            )
        )
    return {
        "now", "fence", "revisions", "lock", "history", "earlier", "seen", "due", "requests", "foldable",
        "heartbeats", "kept_for", "message", "parked", "dead_letters", "write",
    }  # fmt: skip


def methods_of_the_port() -> set[str]:
    """All that there is to call."""
    return {name for port in (Batch, Store) for name in vars(port) if not name.startswith("_")}


def fill(connection: Connection) -> None:
    """Many sagas that have ended, few that live, one of them due; nobody has analysed anything."""
    for statement in _FILL:
        connection.exec_driver_sql(statement.replace("MANY", str(MANY)))


_OF_SAGA = (
    "id, definition, version, tenant, attributes, input, started_at, status, attention, attempt, updated_at,"
    " revision, undriven, wake_at, alarm_at, coordinator"
)
_FILL = (
    f"INSERT INTO saga ({_OF_SAGA}) SELECT 'ended-' || n, 'order', 1, '', '{{}}', '1', now(), 'completed', 'none', 1,"
    " now(), 3, false, NULL, NULL, 'orders' FROM generate_series(1, MANY) n",
    f"INSERT INTO saga ({_OF_SAGA}) SELECT 'o-' || n, 'order', 1, '', '{{}}', '1', now(), 'running', 'none', 1,"
    " now(), 1, false, now() + interval '1 day', now() + interval '1 day', 'orders'"
    " FROM generate_series(1, 5) n",
    # Of another coordinator, and before all others in the order of alarms.
    f"INSERT INTO saga ({_OF_SAGA}) SELECT 'foreign-' || n, 'order', 1, '', '{{}}', '1', now(), 'running', 'none', 1,"
    " now(), 1, false, now() + interval '1 hour', now() + interval '1 hour', 'billing'"
    " FROM generate_series(1, MANY) n",
    "INSERT INTO saga_event (saga_id, seq, type, at, payload, message_id)"
    " SELECT 'ended-' || n, seq, 'Started', now(), '[]', 'x' || seq FROM generate_series(1, MANY / 3) n,"
    " generate_series(1, 3) seq",
    "INSERT INTO saga_event (saga_id, seq, type, at, payload, message_id)"
    " VALUES ('o-1', 1, 'Started', now(), '[]', 'x')",
    'INSERT INTO dead_letter (state, topic, partition, "offset", topic_id, headers, timestamp_ms, reason,'
    " error_class, error_message, fingerprint, saga_id, attempts, replays, created_at, updated_at,"
    " coordinator)"
    " SELECT 'dead', 't', 0, n, '', '[]', 0, 'x', 'E', 'e', 'f', 'ended-' || n, 1, 0, now(), now(), 'orders'"
    " FROM generate_series(1, MANY) n",
    "INSERT INTO heartbeat (command_id, saga_id, at, newest, known, details, count)"
    " SELECT 'c-' || n, 'ended-' || n, now(), 1, '{}', '1', 1 FROM generate_series(1, MANY) n",
    "INSERT INTO audit (seq, at, actor, action, reason, outcome, previous_hash, hash)"
    " SELECT 1000 + n, now(), 'a', 'retry', '', 'done', '', '' FROM generate_series(1, MANY) n",
    "INSERT INTO definition_fingerprint (coordinator, name, version, fingerprint, registered_at)"
    " SELECT 'c', 'order-' || n, 1, 'f', now() FROM generate_series(1, MANY) n",
    "INSERT INTO operator_request (kind, arguments, actor, reason, not_before, created_at)"
    " SELECT 'wake', '{}', 'a', '', now() + interval '1 day', now() FROM generate_series(1, MANY) n",
    "INSERT INTO outbox (id, lane, aggregatetype, aggregateid, type, content_type, created_at, saga_id)"
    " SELECT gen_random_uuid(), 0, 't', 'k', 'x', 'j', now(), 'ended-' || n FROM generate_series(1, MANY) n",
    "INSERT INTO outbox_lane (lane, owner, token, leased_until)"
    " SELECT n, 'relay', 1, now() + interval '1 day' FROM generate_series(0, 63) n",
)  # fmt: skip
_TABLES = (
    "saga, saga_event, heartbeat, dead_letter, audit, audit_head, definition_fingerprint, operator_request, outbox,"
    " outbox_batch, consumer_offset, outbox_lane, outbox_relay"
)


def empty(connection: Connection) -> None:
    """No row, and no statistics of what was there."""
    connection.exec_driver_sql(f"TRUNCATE {_TABLES} RESTART IDENTITY")


class Plans:
    """Statements prepared on one connection, and what running them takes."""

    def __init__(self, connection: Connection, asked: Sequence[Asked]) -> None:
        self._connection = connection
        self._mogrify = ClientCursor(connection.connection.driver_connection).mogrify  # type: ignore[arg-type]
        self._names = {each.statement: f"loop_{n}" for n, each in enumerate(asked)}
        for each in asked:
            connection.exec_driver_sql(f"PREPARE {self._names[each.statement]} AS {each.statement}".replace("%", "%%"))
            # The plan is made now, for the tables as they are, and kept.
            connection.exec_driver_sql(f"EXPLAIN {self._execute(each, bound=False)}")

    def _execute(self, asked: Asked, *, bound: bool = True) -> str:
        values = ", ".join(self._mogrify("%s", [value]) if bound else "NULL" for value in asked.values)
        name = self._names[asked.statement]
        return f"EXECUTE {name}({values})" if asked.values else f"EXECUTE {name}"

    def visited(self, asked: Asked) -> tuple[int, str]:
        """How many rows of large tables the server looks at, and the plan. Nothing stays written."""
        driver: Any = self._connection.connection.driver_connection
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON, COSTS OFF, TIMING OFF) {self._execute(asked)}"
        driver.execute("BEGIN")
        try:
            [found] = driver.execute(explain).fetchone()
        finally:
            driver.execute("ROLLBACK")
        plan = (found if isinstance(found, list) else json.loads(found))[0]["Plan"]
        return sum(_rows(node) for node in _nodes(plan)), json.dumps(plan, indent=1)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: dict[str, Any]) -> int:
    scanned = "Scan" in node["Node Type"] and node.get("Relation Name") not in (*SMALL, None)
    if not scanned and "Bitmap" not in node["Node Type"]:
        return 0
    removed: int = sum(value for name, value in node.items() if name.startswith("Rows Removed"))
    return int((node["Actual Rows"] + removed) * max(1, node["Actual Loops"]))
