"""The command: one saga at a time, then many; the database says when each began and ended."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from contextlib import closing
from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import Engine, create_engine, func, select

from segue.cli.bench.load import LoadGenerator
from segue.cli.bench.place import Place, coordinator, scratch
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.clock import SYSTEM_CLOCK
from segue.coordinator.schema import saga
from segue.topics.kafka import KafkaConsumer, KafkaProducer

#: Sagas before the first one that counts, and how many run one at a time: of so many under load, one.
_WARM_UP, _SHARE = 10, 50
#: There is a steady load where so many times as many sagas run in all as at the same time.
STEADY = 10
#: Seconds until the coordinator must have ended the first saga, and until it must have ended all of them.
_FIRST, _ALL = 60.0, 900.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "bench")(measure)


def measure(
    run: Invocation,
    sagas: Annotated[int, typer.Option(min=100, max=1_000_000, help="How many sagas run under load.")] = 5_000,
    under_way: Annotated[int, typer.Option(min=1, max=100_000, help="How many of them at the same time.")] = 500,
    partitions: Annotated[int, typer.Option(min=1, max=1_000, help="Partitions of each topic.")] = 12,
) -> None:
    """Measure sagas of four steps on your Kafka and database, or on the embedded ones.

    One coordinator runs as it does in production; this process answers its commands at once, so that what is measured
    is what Segue and its two parts cost. Topics and tables are new ones, and are removed at the end.
    """
    with scratch(run, partitions) as place, coordinator(run, place) as process:
        consumer = KafkaConsumer(place.kafka, group=None)
        with closing(consumer), closing(KafkaProducer(place.kafka)) as producer:
            engine = create_engine(place.database)
            try:
                bench = _Bench(process, LoadGenerator(place.names, consumer, producer), engine)
                with run.out.progress("one at a time"):
                    alone = bench.one_by_one(max(10, sagas // _SHARE))
                with run.out.progress("sagas", sagas) as advance:
                    loaded = bench.under_load(sagas, under_way, advance)
            finally:
                engine.dispose()
    _tell(run, place, alone, loaded, sagas, under_way)


class _Bench:
    """A coordinator that is running, and the load for it."""

    def __init__(self, process: subprocess.Popen[bytes], load: LoadGenerator, engine: Engine) -> None:
        self._process = process
        self._load = load
        self._engine = engine

    def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of single sagas, from before their start is sent until their end can be read."""
        found = []
        for number in range(_WARM_UP + count):
            began = SYSTEM_CLOCK.monotonic()
            saga_id = self._load.start()
            while not self._ended(saga_id):
                self._load.step()
                self._check(began + _FIRST, f"the saga {saga_id} did not end")
            if number >= _WARM_UP:
                found.append((SYSTEM_CLOCK.monotonic() - began) * 1000)
        return found

    def under_load(self, sagas: int, under_way: int, advance: Any) -> dict[str, float]:
        """Figures of `sagas` sagas, of which `under_way` run at any time."""
        load, first = self._load, self._load.started
        give_up = SYSTEM_CLOCK.monotonic() + _ALL
        shown = load.answered
        while load.answered < first + sagas:
            while load.started < min(first + sagas, load.answered + under_way):
                load.start()
            load.step()
            self._check(give_up, f"only {load.answered - first} of {sagas} sagas ended")
            if load.answered - shown >= sagas // 100:
                advance(load.answered - shown)
                shown = load.answered
        while self._live():
            load.step()
            self._check(give_up, "not all sagas ended")
        return self._figures(first, sagas, under_way)

    def _figures(self, first: int, sagas: int, under_way: int) -> dict[str, float]:
        ids = {f"bench-{number}" for number in range(first, first + sagas)}
        with self._engine.connect() as connection:
            rows = connection.execute(select(saga.c.id, saga.c.started_at, saga.c.ended_at, saga.c.revision)).all()
        mine = [row for row in rows if row.id in ids]
        rate = rate_of([(row.started_at, row.ended_at) for row in mine], under_way)
        lengths = [(row.ended_at - row.started_at).total_seconds() * 1000 for row in mine]
        return {
            "sagas_per_s": rate,
            "transitions_per_s": rate * sum(row.revision for row in mine) / len(mine),
            "p50": percentile(lengths, 0.5),
            "p99": percentile(lengths, 0.99),
        }

    def _ended(self, saga_id: str) -> bool:
        with self._engine.connect() as connection:
            return connection.scalar(select(saga.c.ended_at).where(saga.c.id == saga_id)) is not None

    def _live(self) -> bool:
        with self._engine.connect() as connection:
            return bool(connection.scalar(select(func.count()).where(saga.c.ended_at.is_(None))))

    def _check(self, give_up: float, what: str) -> None:
        if self._process.poll() is not None:
            raise Problem(f"the coordinator ended with code {self._process.returncode}")
        if SYSTEM_CLOCK.monotonic() > give_up:
            said = f"; Kafka said last: {self._load.trouble}" if self._load.trouble else ""
            raise Problem(f"{what} in time{said}")


def rate_of(sagas: list[tuple[datetime, datetime]], under_way: int) -> float:
    """Sagas per second, of (start, end) each.

    The first and the last run with fewer beside them: the middle four fifths are the steady load. Where so few run that
    there is none, they end in bursts, and only the whole time from the first start to the last end says anything.
    """
    ends = sorted(end for _, end in sagas)
    if len(ends) < STEADY * under_way:
        whole = (ends[-1] - min(start for start, _ in sagas)).total_seconds()
        return len(ends) / max(whole, 1e-3)
    low, high = len(ends) // 10, len(ends) * 9 // 10
    return (high - low) / max((ends[high] - ends[low]).total_seconds(), 1e-3)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))]


def _tell(
    run: Invocation, place: Place, alone: list[float], loaded: dict[str, float], sagas: int, under_way: int
) -> None:
    latency = {"p50": percentile(alone, 0.5), "p99": percentile(alone, 0.99), "mean": statistics.fmean(alone)}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    if run.out.json:
        document = {
            "sagas_per_s": round(loaded["sagas_per_s"], 1),
            "transitions_per_s": round(loaded["transitions_per_s"], 1),
            "latency_ms": {name: round(value, 2) for name, value in latency.items()},
            "latency_under_load_ms": {name: round(loaded[name], 2) for name in ("p50", "p99")},
            "sagas": sagas,
            "under_way": under_way,
            "parts": place.what,
            "machine": machine,
        }
        run.out.document(document)
        return
    if sagas < STEADY * under_way:
        few = f"{sagas:,} sagas are too few for a steady load of {under_way:,}: the rate is that of start, load and end"
        run.out.note(f"{few} together; --sagas {STEADY * under_way} shows the steady one")
    run.out.line(f"{place.what}; {machine['cores']} cores, Python {machine['python']}")
    run.out.table(
        ("figure", "value"),
        [
            (f"sagas of four steps, {under_way} under way", f"{loaded['sagas_per_s']:,.0f} /s"),
            ("durable transitions", f"{loaded['transitions_per_s']:,.0f} /s"),
            ("first to last transition under this load, p50 / p99", f"{loaded['p50']:,.0f} / {loaded['p99']:,.0f} ms"),
            ("one saga at a time, start to end, p50 / p99", f"{latency['p50']:,.1f} / {latency['p99']:,.1f} ms"),
        ],
    )
