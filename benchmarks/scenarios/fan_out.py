"""One saga that maps a handler over many items, through four worker processes: its time against work / slots."""

from __future__ import annotations

from sqlalchemy import create_engine

from benchmarks.bench import Bench, Estate
from benchmarks.report import Row
from segue.activities.loop import LoopOptions
from segue.outbox import metadata as service_tables

#: Worker processes of the one service.
PROCESSES = 4
#: Partitions of its topic: keys spread unevenly over few of them, and each process has a quarter.
PARTITIONS = 32
#: Seconds that a handler takes: it sleeps, and uses no processor.
SECONDS = 0.25
TARGET = 1.3
_SECONDS = "SELECT extract(epoch FROM ended_at - started_at)::float8 FROM saga WHERE ended_at IS NOT NULL"


def run(bench: Bench) -> list[Row]:
    """10,000 items."""
    items = 1_000 if bench.quick else 10_000
    with bench.estate(services=()) as estate:
        _workers(bench, estate)
        estate.coordinator()
        driver = estate.driver(topics=[], limit=1, rate=100.0, saga="fan_out", input={"calls": items}, last="none")
        driver.tell("go")
        estate.wait(lambda: estate.ask(_SECONDS) is not None, 300, f"the end of a map of {items:,} items")
        took = float(estate.ask(_SECONDS))
        status = estate.ask("SELECT status FROM saga")
    return [_row(items, took, status)]


def _workers(bench: Bench, estate: Estate) -> None:
    """All on one database, as the processes of one service are."""
    bench.create_topics([estate.names.commands_of("labour")], PARTITIONS)
    bench.create_topics(["labour.dlq"])
    url = estate.side_database("labour")
    engine = create_engine(url)
    service_tables.create_all(engine)
    engine.dispose()
    for number in range(PROCESSES):
        estate.start(f"labour-{number}", "service", service="labour", database=url, seconds=SECONDS)
    for number in range(PROCESSES):
        estate.children[f"labour-{number}"].ready()


def _row(items: int, took: float, status: str) -> Row:
    slots = PROCESSES * LoopOptions().concurrency
    ideal = items * SECONDS / slots
    ratio = took / ideal
    return Row(
        scenario="fan_out",
        key="fan_out.ratio",
        what=f"map of {items:,} items of {SECONDS:g} s, {PROCESSES} workers x {slots // PROCESSES} slots",
        unit="x work / slots",
        value=ratio,
        target=f"<= {TARGET}",
        met=ratio <= TARGET and status == "completed",
        remark=f"{took:.1f} s, work / slots is {ideal:.1f} s, {status}",
    )
