"""One coordinator process on real Kafka and PostgreSQL, all participants faked by one fast process.

Durable transitions a second, WAL of a saga, commits of a transition.
"""

from __future__ import annotations

from itertools import pairwise

from benchmarks.bench import Bench, Estate
from benchmarks.contracts import UNLUCKY
from benchmarks.figures import Spread, ratio
from benchmarks.meters import Reading, by_process, cpu_us, used
from benchmarks.report import Row, spread_row

#: Sagas that are under way at any moment; less than a coordinator caches.
IN_FLIGHT = 2_000


def run(bench: Bench) -> list[Row]:
    """The success path, and the undo of three steps."""
    rows = measured(bench, unlucky=False)
    return rows if bench.quick else [*rows, *measured(bench, unlucky=True)]


def measured(bench: Bench, *, unlucky: bool) -> list[Row]:
    """Rows of one run of one estate."""
    with bench.estate() as estate:
        estate.coordinator()
        driver = estate.driver(
            answer=True,
            in_flight=IN_FLIGHT,
            account=UNLUCKY if unlucky else "ann",
            last="payments.refund" if unlucky else "mail.confirm",
        )
        driver.tell("go")
        estate.once_round(driver, IN_FLIGHT)
        readings = estate.windows(bench.pick(3, 1), bench.pick(5, 4), int(bench.pick(5, 3)))
        driver.tell("pause")
        counts = estate.children["coordinator"].tell("counts")
        return _rows(bench, estate, readings, counts, unlucky=unlucky)


def _rows(bench: Bench, estate: Estate, readings: list[Reading], counts: dict[str, int], *, unlucky: bool) -> list[Row]:
    pairs = list(pairwise(readings))
    moved = [estate.transitions(a, b) for a, b in pairs]
    # Sagas move in waves: those that began together end together. Their rate is that of transitions, by their length.
    length = estate.length()
    total = used(readings[0], readings[-1])
    per_s = Spread.of(n / (b.at - a.at) for n, (a, b) in zip(moved, pairs, strict=True))
    sagas = Spread.of(n / length / (b.at - a.at) for n, (a, b) in zip(moved, pairs, strict=True))
    scenario, what = ("undo", " with an undo of 3") if unlucky else ("transitions", "")
    floor = ratio(per_s.median, bench.value("floor.per_s"))
    remark = "" if floor is None else f"{floor:.0%} of the floor"
    micros = cpu_us(total, sum(moved))
    details = {**total, "counts": counts, "cpu_us": micros}
    wal = total["wal_bytes"] / max(1, sum(moved)) * length
    commits = total["database"]["xact_commit"] / max(1, sum(moved))
    return [
        spread_row(
            scenario,
            f"{scenario}.per_s",
            f"durable transitions of one coordinator{what}, fast responder",
            "/s",
            per_s,
            target="" if unlucky else "≥ 50 % of the floor",
            met=None if unlucky or floor is None else floor >= 0.5,
            remark=remark,
            details=details,
        ),
        spread_row(scenario, f"{scenario}.sagas_per_s", f"4-step sagas{what}, fast responder", "/s", sagas),
        Row(
            scenario=scenario,
            key=f"{scenario}.cpu_us",
            what=f"CPU of the coordinator for one transition{what}",
            unit="µs",
            value=micros["coordinator"],
            remark=f"µs of a transition by process: {by_process(micros)}",
        ),
        Row(
            scenario=scenario,
            key=f"{scenario}.wal_per_saga",
            what=f"WAL of one 4-step saga{what}, coordinator's database",
            unit="B",
            value=wal,
            target="" if unlucky else "≤ 6 kB",
            met=None if unlucky else wal <= 6000,
        ),
        Row(
            scenario=scenario,
            key=f"{scenario}.commits_per_transition",
            what=f"commits of one transition{what}",
            unit="",
            value=commits,
            target="" if unlucky else "≤ 0.02",
            met=None if unlucky else commits <= 0.02,
        ),
    ]
