"""A million waiting sagas with timers: idle CPU, ten thousand that fall due within a second, lists, size, start.

The rows are the store's own: template sagas are made by the engine and written through the store, then copied inside
the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.bench import Bench, Estate
from benchmarks.contracts import Nap, nap
from benchmarks.figures import percentile
from benchmarks.meters import libpq, used
from benchmarks.report import Row
from benchmarks.scenarios.latency import ENDED
from segue.clock import from_micros
from segue.coordinator import schema
from segue.coordinator.projection import row_of
from segue.coordinator.queries import SagaFilter
from segue.coordinator.reads import Reads
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import Changes, EventRow
from segue.saga.events import encode_events
from segue.saga.transition import start
from segue.topics import Converter

#: The due ones fall due in this many steps within their second.
STEPS = 100
_DAY = 86_400.0
_LATENESS = """
SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) - %s - split_part(id, '-', 2)::int * %s)::float8 * 1000
FROM saga WHERE id LIKE 'due-%%' AND ended_at IS NOT NULL
"""


def run(bench: Bench) -> list[Row]:
    """All figures of one estate."""
    count, due = int(bench.pick(1_000_000, 100_000)), int(bench.pick(10_000, 2_000))
    with bench.estate(services=()) as estate:
        _fill(estate, "far", 30 * _DAY, count - due, time.time())
        _vacuum(estate)
        size = int(estate.ask("SELECT pg_total_relation_size('saga') + pg_total_relation_size('saga_event')"))
        rows = [_size(size / (count - due), count - due), *_start(estate, count)]
        rows.append(_idle(bench, estate, count))
        rows += _fire(estate, due)
        rows += _lists(estate, int(bench.pick(40, 10)))
    return rows


def _fill(estate: Estate, prefix: str, seconds: float, count: int, now: float) -> None:
    """So many sagas asleep since `now` for so long."""
    converter = Converter()
    template = f"{prefix}-template"
    micros = int(now * 1e6)
    instance, moved = start(
        template,
        nap,
        converter,
        coordinator=estate.names.coordinator,
        input=converter.to_bytes(Nap(seconds=seconds), nap.input_type),
        now=micros,
    )
    assert instance.program is not None
    instance.program.close()
    event = EventRow(
        saga_id=template,
        seq=instance.state.revision,
        type=type(moved.events[0]).__name__,
        at=from_micros(micros),
        payload=encode_events(moved.events),
    )
    store = SqlStore(estate.database)
    with store.batch() as batch:
        batch.write(Changes(started=[row_of(instance.state, moved.wake_at)], events=[event]))
    store.close()
    _copy(estate, template, prefix, count - 1)


def _copy(estate: Estate, template: str, prefix: str, count: int) -> None:
    if not count:
        return
    with psycopg.connect(libpq(estate.database)) as connection:
        for table, key in ((schema.saga, "id"), (schema.saga_event, "saga_id")):
            columns = [column.name for column in table.columns if column.name != key and column.computed is None]
            named = ", ".join(f'"{name}"' for name in columns)
            connection.execute(
                f'INSERT INTO {table.name} ("{key}", {named}) SELECT %s || n, {named}'
                f" FROM {table.name}, generate_series(1, %s) n WHERE {key} = %s",
                [f"{prefix}-", count, template],
            )
        connection.commit()


def _vacuum(estate: Estate) -> None:
    with psycopg.connect(libpq(estate.database), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE saga")
        connection.execute("VACUUM ANALYZE saga_event")


def _start(estate: Estate, count: int) -> list[Row]:
    """From the start of the process to the commit of a transition that waits for it."""
    _fill(estate, "first", 0.001, 1, time.time())
    began = time.time()
    estate.coordinator()
    estate.wait(lambda: estate.ask(ENDED, "first-template") is not None, 120, "the first transition")
    seconds = float(estate.ask(ENDED, "first-template")) - began
    what = f"start of a coordinator with {count:,} live sagas, to its first transition"
    return [
        Row(
            scenario="timers",
            key="timers.start_s",
            what=what,
            unit="s",
            value=seconds,
            target="< 5 s",
            met=seconds < 5,
        )
    ]


def _idle(bench: Bench, estate: Estate, count: int) -> Row:
    readings = estate.windows(3, bench.pick(15, 5), 1)
    cores = used(readings[0], readings[1])["cores"]
    busy = cores["coordinator"] + cores["postgres"]
    return Row(
        scenario="timers",
        key="timers.idle_percent",
        what=f"idle with {count:,} waiting sagas: CPU of coordinator and PostgreSQL",
        unit="% of a core",
        value=busy * 100,
        target="< 2 %",
        met=busy < 0.02,
        remark=f"coordinator {cores['coordinator']:.1%}, postgres {cores['postgres']:.1%}",
    )


def _fire(estate: Estate, due: int) -> list[Row]:
    """Sagas that fall due within one second, a hundredth of them every 10 ms."""
    lead = 15.0 + due / 1000
    now = time.time()
    for step in range(STEPS):
        # All slept from the same moment; the length of the nap says when each falls due.
        _fill(estate, f"due-{step}", lead + step / STEPS, due // STEPS, now)
    ended = "SELECT count(*) FROM saga WHERE id LIKE 'due-%' AND ended_at IS NOT NULL"
    late = time.time() - now - lead
    estate.wait(lambda: estate.ask(ended) >= due // STEPS * STEPS, 120, "the end of all that fell due")
    with psycopg.connect(libpq(estate.database)) as connection:
        found = [float(row[0]) for row in connection.execute(_LATENESS, [now + lead, 1 / STEPS])]
    p99 = percentile(found, 0.99)
    return [
        Row(
            scenario="timers",
            key="timers.lateness_p99_ms",
            what=f"{due:,} due within one second: lateness p99",
            unit="ms",
            value=p99,
            n=len(found),
            target="< 1 s",
            met=p99 < 1000,
            remark=f"p50 {percentile(found, 0.5):.0f} ms" + (", rows came too late" if late > 0 else ""),
        )
    ]


def _lists(estate: Estate, times: int) -> list[Row]:
    reads = Reads(estate.database)
    asked: dict[str, Callable[[], Any]] = {
        "first page": lambda: reads.sagas(SagaFilter()),
        "by status": lambda: reads.sagas(SagaFilter(statuses=("completed",))),
        "by type": lambda: reads.sagas(SagaFilter(definition="nap")),
        "stuck": lambda: reads.sagas(SagaFilter(stuck=True)),
        "one": lambda: reads.saga("far-4711"),
    }
    rows = []
    for name, ask in asked.items():
        found = []
        for _ in range(times):
            began = time.perf_counter()
            ask()
            found.append((time.perf_counter() - began) * 1000)
        p99 = percentile(found, 0.99)
        rows.append(
            Row(
                scenario="timers",
                key=f"timers.list_{name.replace(' ', '_')}_p99_ms",
                what=f"list, {name}: p99",
                unit="ms",
                value=p99,
                n=times,
                target="< 100 ms",
                met=p99 < 100,
            )
        )
    reads.close()
    return rows


def _size(size: float, count: int) -> Row:
    return Row(
        scenario="timers",
        key="timers.bytes_per_row",
        what="a waiting saga on disk, its history and indexes included",
        unit="B",
        value=size,
        n=count,
        target="≤ 2 kB",
        met=size <= 2000,
    )
