"""Completed 4-step sagas with four real Python services: a process, an inbox and a database each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.bench import Bench, Estate
from benchmarks.contracts import UNLUCKY
from benchmarks.figures import Spread
from benchmarks.meters import Reading, by_process, cpu_us, used
from benchmarks.report import Row, spread_row

#: Sagas under way; the best of several counts is taken, as it is for the peers.
IN_FLIGHT = (200, 1000)


def run(bench: Bench) -> list[Row]:
    """The success path."""
    return best_of(bench, "services", "completed 4-step sagas, four real services", IN_FLIGHT, unlucky=False)


def best_of(bench: Bench, scenario: str, what: str, in_flight: Sequence[int], *, unlucky: bool) -> list[Row]:
    """The row of the best number of sagas under way."""
    counts = in_flight[-1:] if bench.quick or bench.profiles else in_flight
    found = [measured(bench, scenario, what, count, unlucky=unlucky) for count in counts]
    return [max(found, key=lambda row: row.value or 0.0)]


def measured(bench: Bench, scenario: str, what: str, in_flight: int, *, unlucky: bool) -> Row:
    """One estate, so many sagas under way."""
    with bench.estate() as estate:
        estate.services()
        estate.coordinator()
        driver = estate.driver(
            topics=[estate.commands["payments" if unlucky else "mail"]],
            in_flight=in_flight,
            account=UNLUCKY if unlucky else "ann",
            last="payments.refund" if unlucky else "mail.confirm",
        )
        driver.tell("go")
        estate.once_round(driver, in_flight)
        readings = estate.windows(bench.pick(3, 1), bench.pick(6, 5), int(bench.pick(4, 3)))
        driver.tell("pause")
        counts = estate.children["coordinator"].tell("counts")
        return _row(estate, readings, scenario, f"{what}, {in_flight} under way", counts)


def _row(estate: Estate, readings: list[Reading], scenario: str, what: str, counts: dict[str, int]) -> Row:
    pairs = list(pairwise(readings))
    # Sagas that began together end together, so that ends in one window say little: transitions do not come in waves.
    length = estate.length()
    moved = [estate.transitions(a, b) / length for a, b in pairs]
    rates = Spread.of(n / (b.at - a.at) for n, (a, b) in zip(moved, pairs, strict=True))
    ended = estate.ended(readings[0], readings[-1]) / (readings[-1].at - readings[0].at)
    total = used(readings[0], readings[-1])
    micros = cpu_us(total, round(sum(moved)))
    return spread_row(
        scenario,
        f"{scenario}.sagas_per_s",
        what,
        "/s",
        rates,
        target="≥ 5 × DBOS, ≥ 2 × Restate",
        remark=f"{ended:.0f}/s ended in all windows; CPU µs of a saga: {by_process(micros)}",
        details={**total, "counts": counts, "cpu_us": micros},
    )
