"""Two coordinator processes on one database against one, fast responder."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.bench import Bench
from benchmarks.figures import Spread
from benchmarks.meters import by_process, used
from benchmarks.report import Row, spread_row
from benchmarks.scenarios.transitions import IN_FLIGHT

#: Partitions of one number, of requests and replies, go to one process: it has a saga in memory from its first record
#: on. The classic protocol's assignor may give one process all requests, and the other one all replies.
ASSIGNMENT = {"group.protocol": "consumer", "group.remote.assignor": "range"}


def run(bench: Bench) -> list[Row]:
    """Both rates, and their ratio."""
    one, two = _measured(bench, 1), _measured(bench, 2)
    assert one.value is not None
    assert two.value is not None
    gain = two.value / one.value
    return [
        one,
        two,
        Row(
            scenario="coordinators",
            key="coordinators.gain",
            what="two coordinators against one",
            unit="×",
            value=gain,
            target="≥ 1.7 × where cores are left",
            met=gain >= 1.7,
        ),
    ]


def _measured(bench: Bench, count: int) -> Row:
    with bench.estate() as estate:
        for number in range(count):
            estate.coordinator(f"coordinator-{number + 1}", properties=ASSIGNMENT)
        driver = estate.driver(answer=True, in_flight=IN_FLIGHT)
        driver.tell("go")
        estate.once_round(driver, IN_FLIGHT)
        readings = estate.windows(bench.pick(3, 1), 5, int(bench.pick(4, 2)))
        driver.tell("pause")
        pairs = list(pairwise(readings))
        rates = Spread.of(estate.transitions(a, b) / (b.at - a.at) for a, b in pairs)
        total = used(readings[0], readings[-1])
        counts = {
            name: child.tell("counts") for name, child in estate.children.items() if name.startswith("coordinator")
        }
    return spread_row(
        "coordinators",
        f"coordinators.{count}.per_s",
        f"transitions of {count} coordinator{'s' * (count > 1)}",
        "/s",
        rates,
        remark=f"cores: {by_process(total['cores'])}",
        details={**total, "counts": counts},
    )
