"""One saga with many calls at once: seconds from its start to its end, and the cost of a call."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.report import Row

_SECONDS = "SELECT extract(epoch FROM ended_at - started_at)::float8 FROM saga WHERE ended_at IS NOT NULL"


def run(bench: Bench) -> list[Row]:
    """100, 1,000 and 10,000 calls."""
    return [_measured(bench, calls) for calls in ((100, 1_000) if bench.quick else (100, 1_000, 10_000))]


def _measured(bench: Bench, calls: int) -> Row:
    with bench.estate(services=("mail",)) as estate:
        estate.coordinator()
        driver = estate.driver(answer=True, in_flight=1, limit=1, saga="gather", input={"calls": calls}, last="none")
        driver.tell("go")
        estate.wait(lambda: estate.ask(_SECONDS) is not None, 300, f"the end of a gather of {calls}")
        seconds = float(estate.ask(_SECONDS))
        status = estate.ask("SELECT status FROM saga")
    return Row(
        scenario="gather",
        key=f"gather.{calls}_s",
        what=f"gather of {calls:,} calls",
        unit="s",
        value=seconds,
        target="< 20 s" if calls == 10_000 else "cost of a call constant",
        met=seconds < 20 and status == "completed" if calls == 10_000 else None,
        remark=f"{seconds / calls * 1000:.2f} ms a call, {status}",
    )
