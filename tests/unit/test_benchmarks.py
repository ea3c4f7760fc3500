"""The pure parts of the benchmarks: arithmetic, the table, the shape of the JSON. Nothing is timed."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from benchmarks.__main__ import ALL, QUICK
from benchmarks.budget import budget, table
from benchmarks.contracts import order, registry
from benchmarks.figures import Spread, median, percentile, ratio, shown
from benchmarks.meters import Reading, cpu_us, used
from benchmarks.report import Report, Row, spread_row
from segue.topics import Converter

MACHINE = {"cores": 2, "commit": "0123456789ab"}


def row(key: str, value: float | None, **more: Any) -> Row:
    return Row(scenario=key.partition(".")[0], key=key, what=key, unit="/s", value=value, **more)


def reading(at: float, cpu: float, wal: int, commits: int) -> Reading:
    return Reading(at=at, cpu={"coordinator": cpu}, wal_bytes=wal, database={"xact_commit": commits})


def test_a_median_of_an_even_number_of_values_lies_between_the_two_in_the_middle() -> None:
    assert median([4, 1, 3, 2]) == 2.5
    assert median([3, 1, 2]) == 2
    assert Spread.of([3, 1, 2]) == Spread(median=2, low=1, high=3, n=3)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7


def test_nothing_measured_has_no_median_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="0 values"):
        percentile([], 0.5)


def test_a_ratio_to_something_that_was_not_measured_is_null() -> None:
    assert ratio(10, 4) == 2.5
    assert ratio(None, 4) is None
    assert ratio(10, None) is None
    assert ratio(10, 0) is None


def test_numbers_are_shown_with_three_digits() -> None:
    assert [shown(n) for n in (0, 0.00789, 2.345, 33_312.4, 1234567)] == ["0", "0.00789", "2.35", "33,300", "1,230,000"]


def test_what_was_used_is_the_difference_of_two_readings() -> None:
    total = used(reading(100.0, 1.0, 5000, 10), reading(102.0, 2.0, 9000, 14))
    assert total == {
        "seconds": 2.0,
        "cores": {"coordinator": 0.5},
        "wal_bytes": 4000,
        "database": {"xact_commit": 4},
    }
    assert cpu_us(total, 1000) == {"coordinator": 1000.0}


def test_the_last_line_of_a_run_has_the_promised_shape() -> None:
    rows = [
        row("floor.per_s", 30_000),
        row("transitions.per_s", 15_000),
        row("services.sagas_per_s", 900),
        row("dbos.per_s", 150),
        row("restate.per_s", None, remark="no npm on this machine"),
        row("latency.p50_ms", 12.5),
        row("latency.p99_ms", 40),
    ]
    assert Report(machine=MACHINE, rows=rows).headline() == {
        "ratios": {"floor": 0.5, "dbos": 6.0, "restate": None},
        "latency_ms": {"p50": 12.5, "p99": 40},
        "sagas_per_s": 900,
        "machine": MACHINE,
    }


def test_the_json_holds_the_headline_and_every_row_with_its_details() -> None:
    report = Report(machine=MACHINE, rows=[row("floor.per_s", 30_000, details={"wal_bytes": 1008})])
    content = json.loads(report.json())
    assert content["machine"] == MACHINE
    assert content["rows"][0]["key"] == "floor.per_s"
    assert content["rows"][0]["details"] == {"wal_bytes": 1008}


def test_the_table_says_what_was_missed_and_what_could_not_be_measured() -> None:
    spread = Spread.of([1000, 2000, 4000])
    rows = [
        spread_row("transitions", "transitions.per_s", "transitions", "/s", spread, target="≥ 50 %", met=False),
        row("restate.per_s", None, remark="no npm | no peer"),
    ]
    table = Report(machine=MACHINE, rows=rows).markdown().splitlines()[-2:]
    assert table[0] == "| transitions | 2,000 /s | 1,000 – 4,000 | 3 | ≥ 50 % | **missed** |  |"
    assert table[1] == "| restate.per_s | not measured |  | 1 |  |  | no npm \\| no peer |"


@pytest.mark.parametrize("name", ALL)
def test_every_scenario_can_be_run_alone(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.scenarios.{name}").run)


def test_a_quick_run_is_a_part_of_the_whole() -> None:
    assert set(QUICK) <= set(ALL)


def test_an_order_has_about_the_size_it_is_measured_with() -> None:
    assert 280 <= len(Converter().to_bytes(order(4711))) <= 320
    assert len(registry()) == 7


def test_a_budget_counts_a_function_once_for_each_stack_it_is_in() -> None:
    found = budget(["main (a.py:1);step (a.py:7);send (b.py:3) 6", "main (a.py:1);step (a.py:9);step (a.py:7) 2"])
    assert found.samples == 8
    assert found.own == {"send (b.py)": 6, "step (a.py)": 2}
    assert found.total == {"main (a.py)": 8, "step (a.py)": 8, "send (b.py)": 6}
    assert "| `send (b.py)` | 75.0% | 150.0 |" in table(found, us=200, top=1)
