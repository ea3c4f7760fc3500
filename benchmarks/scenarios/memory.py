"""Memory of a live saga in the coordinator's cache: sagas that wait for a signal, resident memory before and after."""

from __future__ import annotations

import time

from benchmarks.bench import Bench, Child, Estate
from benchmarks.meters import resident_bytes
from benchmarks.report import Row


def run(bench: Bench) -> list[Row]:
    """Bytes of a cached saga that waits for a signal, and of one that waits for its first reply."""
    few, many = int(bench.pick(5_000, 2_000)), int(bench.pick(30_000, 12_000))
    rows = []
    for saga, what in (("wait", "waits for a signal"), ("four", "waits for its first reply")):
        with bench.estate() as estate:
            coordinator = estate.coordinator(options={"cache_size": 2 * many})
            first = _with(estate, coordinator, saga, few, "few")
            last = _with(estate, coordinator, saga, many, "many")
        size = (last - first) / many
        rows.append(
            Row(
                scenario="memory",
                key=f"memory.{saga}_bytes",
                what=f"memory of a cached live saga that {what}",
                unit="B",
                value=size,
                n=many,
                target="≤ 10 kB",
                met=size <= 10_000,
            )
        )
    return rows


def _with(estate: Estate, coordinator: Child, saga: str, count: int, prefix: str) -> int:
    """Resident memory once so many more sagas are there and the coordinator is at rest."""
    before = int(coordinator.tell("counts").get("saga.started", 0))
    driver = estate.driver(topics=[], rate=20_000.0, limit=count, saga=saga, prefix=prefix)
    driver.tell("go")
    estate.wait(lambda: coordinator.tell("counts").get("saga.started", 0) >= before + count, 300, "all starts")
    estate.children.pop("driver").stop()
    time.sleep(2)
    return resident_bytes(coordinator.pid)
