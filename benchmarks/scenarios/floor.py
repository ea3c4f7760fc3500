"""The floor: the rows of a transition (saga update, event, outbox message), raw driver, one connection, batches of 500.

On narrow tables of its own, which do not change with the product: so ratios to it can be compared over time.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from sqlalchemy import create_engine, text

from benchmarks.bench import Bench
from benchmarks.figures import Spread
from benchmarks.meters import Meter, by_process, cpu_us, libpq, used
from benchmarks.report import Row, spread_row

BATCH = 500
SAGAS = 20_000
PAYLOAD = 300

_TABLES = """
CREATE TABLE saga (id text PRIMARY KEY, definition text NOT NULL, status text NOT NULL, step text,
  revision bigint NOT NULL, updated_at timestamptz NOT NULL, wake_at timestamptz) WITH (fillfactor = 50);
CREATE TABLE saga_event (saga_id text, seq bigint, type text NOT NULL, at timestamptz NOT NULL, payload bytea NOT NULL,
  PRIMARY KEY (saga_id, seq));
CREATE TABLE outbox (id uuid PRIMARY KEY, topic text NOT NULL, key text NOT NULL, payload bytea NOT NULL,
  created_at timestamptz NOT NULL);
INSERT INTO saga SELECT 's-' || n, 'four', 'running', 'payments.charge', 0, now(), now()
  FROM generate_series(0, {sagas} - 1) n;
"""
_UPDATE = """
UPDATE saga SET revision = v.revision, step = v.step, status = v.status, updated_at = v.at, wake_at = v.at
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[]) AS v(id, revision, step, status, at)
WHERE saga.id = v.id AND saga.revision = v.revision - 1
"""
_AT = "2026-01-01 00:00:00+00"
_HEX = "\\\\x" + "6e" * PAYLOAD


def _batches(sagas: int) -> Iterator[tuple[list[Any], str, str]]:
    """Parameters of the update, and both COPY texts; every saga moves once before any moves again."""
    revision = 0
    while True:
        revision += 1
        for first in range(0, sagas, BATCH):
            ids = [f"s-{n}" for n in range(first, first + BATCH)]
            arrays: list[Any] = [
                ids,
                [revision] * BATCH,
                [f"step-{revision % 4}"] * BATCH,
                ["running"] * BATCH,
                [_AT] * BATCH,
            ]
            events = "".join([f"{i}\t{revision}\tStepScheduled\t{_AT}\t{_HEX}\n" for i in ids])
            messages = "".join([f"{uuid.uuid4()}\tpayments.commands\t{i}\t{_HEX}\t{_AT}\n" for i in ids])
            yield arrays, events, messages


def _batch(connection: psycopg.Connection[Any], arrays: list[Any], events: str, messages: str) -> None:
    cursor = connection.cursor()
    cursor.execute(_UPDATE, arrays)
    assert cursor.rowcount == BATCH
    with cursor.copy("COPY saga_event FROM STDIN") as copy:
        copy.write(events)
    with cursor.copy("COPY outbox FROM STDIN") as copy:
        copy.write(messages)
    connection.commit()


def rate(run_batch: Callable[[], None], seconds: float) -> float:
    """Transitions a second of a function that writes one batch."""
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < seconds:
        run_batch()
        count += BATCH
    return count / (time.perf_counter() - began)


def run(bench: Bench) -> list[Row]:
    """The floor of this run."""
    url = bench.postgres.create_database("floor")
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in _TABLES.format(sagas=SAGAS).split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
    engine.dispose()
    pids = {"client": os.getpid(), "postgres": bench.postgres.pid}
    with psycopg.connect(libpq(url)) as driver, Meter(url, pids, families=frozenset(("postgres",))) as meter:
        batches = _batches(SAGAS)
        one = lambda: _batch(driver, *next(batches))  # noqa: E731 - a name for the thing that is repeated
        rate(one, bench.pick(3, 1))
        first, rates, written = meter.read(), list[float](), 0.0
        for _ in range(int(bench.pick(5, 3))):
            seconds = bench.pick(4, 2)
            rates.append(rate(one, seconds))
            written += rates[-1] * seconds
        total = used(first, meter.read())
    wal, micros = total["wal_bytes"] / written, cpu_us(total, int(written))
    bench.postgres.drop_database("floor")
    return [
        spread_row(
            "floor",
            "floor.per_s",
            "floor: transitions, one connection, batch 500, COPY, raw driver",
            "/s",
            Spread.of(rates),
            remark=f"{wal:,.0f} B WAL each; CPU µs: {by_process(micros)}",
            details={**total, "cpu_us": micros},
        )
    ]
