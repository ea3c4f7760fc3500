"""One saga at a time: from before its start is produced to the commit of its end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import psycopg
from confluent_kafka import Producer

from benchmarks.bench import Bench, Estate
from benchmarks.contracts import order
from benchmarks.figures import percentile
from benchmarks.meters import libpq
from benchmarks.place import BenchError
from benchmarks.report import Row
from segue.topics.envelope import Request

#: The end of a saga: the commit time of its row's last version.
ENDED = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM saga WHERE id = %s AND ended_at IS NOT NULL
"""
#: Seconds between two looks for the end. The commit time is exact however late it is read; every millisecond would take
#: a good part of a core from what is measured.
_LOOK_EVERY = 0.005


def run(bench: Bench) -> list[Row]:
    """Latency from start to end."""
    count = int(bench.pick(300, 60))
    with bench.estate() as estate:
        estate.services()
        estate.coordinator()
        found = one_by_one(estate, count)
    rows = [
        _row("latency.p50_ms", "p50", percentile(found, 0.5), count, "≤ 20 ms", 20.0),
        _row("latency.p99_ms", "p99", percentile(found, 0.99), count, "≤ 50 ms", 50.0),
    ]
    return rows if bench.quick else [*rows, _without_services(bench, count)]


def _without_services(bench: Bench, count: int) -> Row:
    with bench.estate() as estate:
        estate.coordinator()
        estate.driver(answer=True)
        found = one_by_one(estate, count)
    return Row(
        scenario="latency",
        key="latency.fast_p50_ms",
        what="one saga at a time, 4 steps, fast responder: p50",
        unit="ms",
        value=percentile(found, 0.5),
        n=count,
        remark=f"p99 {percentile(found, 0.99):.1f} ms; what is more in the row above is the services'",
    )


def _row(key: str, name: str, value: float, count: int, target: str, limit: float) -> Row:
    what = f"one saga at a time, 4 steps, four real services: {name}"
    return Row(
        scenario="latency", key=key, what=what, unit="ms", value=value, n=count, target=target, met=value <= limit
    )


def one_by_one(estate: Estate, count: int, warm_up: int = 100) -> list[float]:
    """Milliseconds of each of `count` sagas. With fewer to warm up, a fresh broker's compiler is what is measured."""
    producer = Producer(
        {"bootstrap.servers": estate.bootstrap, "enable.idempotence": True, "linger.ms": 0}
        | {"partitioner": "murmur2_random"}
    )
    with psycopg.connect(libpq(estate.database), autocommit=True) as connection:
        found = [_one(estate, producer, connection, number) for number in range(warm_up + count)]
    return found[warm_up:]


def _one(estate: Estate, producer: Producer, connection: psycopg.Connection[Any], number: int) -> float:
    saga_id = f"one-{number}"
    request = Request(id=f"{saga_id}-start", action="start", saga_id=saga_id, name="four")
    body = json.dumps(asdict(order(number))).encode()
    began = time.time()
    producer.produce(estate.names.requests, body, saga_id.encode(), headers=list(request.headers()))
    producer.flush(10)
    while time.time() - began < 60:
        row = connection.execute(ENDED, [saga_id]).fetchone()
        if row is not None:
            return float(row[0] - began) * 1000
        time.sleep(_LOOK_EVERY)
    raise BenchError(f"saga {saga_id} did not end within a minute")
