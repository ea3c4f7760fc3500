"""Half of the load that the services were found to bear, sent by the clock.

A saga's latency counts from the moment at which its start was due, so that a stall is seen in all who would have come
meanwhile (no coordinated omission).
"""

from __future__ import annotations

import time

import psycopg

from benchmarks.bench import Bench
from benchmarks.figures import percentile
from benchmarks.meters import libpq
from benchmarks.place import BenchError
from benchmarks.report import Row

_LATENCIES = """
SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 - (%s + substr(id, 3)::int / %s)) * 1000
FROM saga WHERE ended_at IS NOT NULL AND substr(id, 3)::int >= %s AND substr(id, 3)::int < %s
"""


def run(bench: Bench) -> list[Row]:
    """p50 and p99 at half load."""
    full = bench.value("services.sagas_per_s")
    if full is None:
        raise BenchError("half of what? Run `services` before `open_loop`")
    rate, seconds, warm_up = full / 2, bench.pick(20, 10), 5.0
    with bench.estate() as estate:
        estate.services()
        estate.coordinator()
        driver = estate.driver(rate=rate)
        began = driver.tell("go")
        time.sleep(warm_up + seconds)
        sent = driver.tell("pause")["started"]
        first, last = int(rate * warm_up), min(sent, int(rate * (warm_up + seconds)))
        ended = "SELECT count(*) FROM saga WHERE ended_at IS NOT NULL"
        estate.wait(lambda: estate.ask(ended) >= sent, 60, "the end of all sagas")
        with psycopg.connect(libpq(estate.database)) as connection:
            rows = connection.execute(_LATENCIES, [began, rate, first, last]).fetchall()
    found = [float(row[0]) for row in rows]
    return [
        Row(
            scenario="open_loop",
            key=f"open_loop.{name}_ms",
            what=f"open loop at {rate:.0f} sagas/s, half load: {name}",
            unit="ms",
            value=percentile(found, share),
            n=len(found),
            target="< 300 ms" if name == "p99" else "",
            met=percentile(found, share) < 300 if name == "p99" else None,
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
