"""DBOS on the same PostgreSQL: the same four trivial steps, at the best of several numbers of processes and threads."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from benchmarks import peer
from benchmarks.bench import Bench
from benchmarks.figures import Spread, percentile
from benchmarks.meters import libpq
from benchmarks.place import BenchError
from benchmarks.report import Row, spread_row

#: Processes × threads.
SHAPES = ((1, 2), (1, 4), (2, 2), (2, 4), (4, 4))
QUICK_SHAPES = ((2, 4),)


def run(bench: Bench) -> list[Row]:
    """Best rate, best rate with failure and compensations, latency of one at a time."""
    try:
        peer.python()
    except BenchError as error:
        return [Row(scenario="dbos", key="dbos.per_s", what="DBOS", unit="/s", value=None, remark=str(error))]
    shapes = QUICK_SHAPES if bench.quick else SHAPES
    rows = [_best(bench, "dbos", "4-step workflows", shapes, unlucky=False)]
    if not bench.quick:
        rows.append(_best(bench, "dbos_failures", "workflows undone after step 4", SHAPES[2:], unlucky=True))
        [found] = _measured(bench, 1, {"latency": 200, "threads": 1})
        remark = f"p99 {percentile(found, 0.99):.1f} ms"
        what = "DBOS: one workflow at a time, p50"
        rows.append(
            Row(scenario="dbos", key="dbos.p50_ms", what=what, unit="ms", value=percentile(found, 0.5), remark=remark)
        )
    return rows


def _best(bench: Bench, scenario: str, what: str, shapes: tuple[tuple[int, int], ...], *, unlucky: bool) -> Row:
    found = {shape: _rates(bench, *shape, unlucky=unlucky) for shape in shapes}
    shape = max(found, key=lambda each: found[each].median)
    tried = ", ".join(f"{p} × {t}: {spread.median:.0f}" for (p, t), spread in found.items())
    return spread_row(
        scenario,
        f"{scenario}.per_s",
        f"DBOS: {what}, best of {len(shapes)}",
        "/s",
        found[shape],
        remark=f"processes × threads {tried}",
    )


def _rates(bench: Bench, processes: int, threads: int, *, unlucky: bool) -> Spread:
    length = {"warm_up": bench.pick(4, 3), "seconds": bench.pick(4, 3), "windows": int(bench.pick(3, 2))}
    found = _measured(bench, processes, {"threads": threads, "unlucky": unlucky, **length})
    return Spread.of(map(sum, zip(*found, strict=True)))


def _measured(bench: Bench, processes: int, arguments: dict[str, Any]) -> list[list[float]]:
    """What each process found, on a fresh database."""
    name = f"dbos_{processes}_{arguments['threads']}"
    url = bench.postgres.create_database(name)
    children = []
    try:
        for number in range(processes):
            more = {"database": libpq(url), "executor": f"e{number}", "unlucky": False, **arguments}
            children.append(peer.script("dbos_app", more))
            # One by one: each makes, or checks, the tables.
            _line(children[-1])
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return [_line(child) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
        bench.postgres.drop_database(name)


def _line(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise BenchError("DBOS ended; its words are in .real/bench/logs/dbos_app.log")
    return json.loads(line)
