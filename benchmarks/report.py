"""What a run reports: rows, as JSON for machines and as a Markdown table for people. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figures import Spread, ratio, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `key` is stable, for machines; `value` None: it could not be measured, and `remark` says why."""

    scenario: str
    key: str
    what: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 1
    #: What the issue asks for, as people read it.
    target: str = ""
    #: Whether the target is met; None where there is none, or nothing was measured.
    met: bool | None = None
    remark: str = ""
    #: Further numbers that belong to this one: CPU by process, WAL, commits.
    details: Mapping[str, Any] = field(default_factory=dict)


def spread_row(scenario: str, key: str, what: str, unit: str, values: Spread, **more: Any) -> Row:
    """A row of repeated measuring."""
    return Row(
        scenario=scenario,
        key=key,
        what=what,
        unit=unit,
        value=values.median,
        low=values.low,
        high=values.high,
        n=values.n,
        **more,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows of one run, and where it ran."""

    machine: Mapping[str, Any]
    rows: Sequence[Row]

    def value(self, key: str) -> float | None:
        """The figure of the row with this key; None if it was not measured."""
        return next((row.value for row in self.rows if row.key == key), None)

    def headline(self) -> dict[str, Any]:
        """The one object that a run prints last; what this run did not measure is null."""
        sagas = self.value("services.sagas_per_s")
        return {
            "ratios": {
                "floor": ratio(self.value("transitions.per_s"), self.value("floor.per_s")),
                "dbos": ratio(sagas, self.value("dbos.per_s")),
                "restate": ratio(sagas, self.value("restate.per_s")),
            },
            "latency_ms": {"p50": self.value("latency.p50_ms"), "p99": self.value("latency.p99_ms")},
            "sagas_per_s": sagas,
            "machine": dict(self.machine),
        }

    def json(self) -> str:
        """The whole run for machines."""
        content = {**self.headline(), "rows": [asdict(row) for row in self.rows]}
        return json.dumps(content, indent=1, default=str) + "\n"

    def markdown(self) -> str:
        """The whole run for people."""
        head = "| figure | median | low – high | n | target | | remarks |\n|---|---|---|---|---|---|---|"
        lines = [_line(row) for row in self.rows]
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        ratios = ", ".join(
            f"{name} {'not measured' if value is None else f'{value:g} ×'}"
            for name, value in self.headline()["ratios"].items()
        )
        return "\n".join([f"Machine: {machine}.", "", f"Ratios in this run: {ratios}.", "", head, *lines]) + "\n"


def _line(row: Row) -> str:
    value = "not measured" if row.value is None else f"{shown(row.value)} {row.unit}".strip()
    spread = "" if row.low is None or row.high is None else f"{shown(row.low)} – {shown(row.high)}"
    mark = {True: "met", False: "**missed**", None: ""}[row.met]
    cells = [row.what, value, spread, str(row.n), row.target, mark, row.remark]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
