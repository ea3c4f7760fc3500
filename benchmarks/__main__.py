"""`python -m benchmarks [--quick] [SCENARIO …]`: measure, write JSON and Markdown, print one JSON object last."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.machine import machine
from benchmarks.place import PLACE
from benchmarks.report import Report, Row

#: In the order in which they run. Those of a quick run come first.
QUICK = ("floor", "transitions", "services", "latency", "relay", "dbos", "restate")
ALL = (
    *("floor", "transitions", "services", "failures", "open_loop", "latency", "relay", "coordinators"),
    *("backlog", "timers", "gather", "fan_out", "history", "memory", "dbos", "restate"),
)


def main() -> int:
    """Exit code 1 if a scenario failed."""
    options = _options()
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731 - short, and used in one place
    names = options.scenarios or (QUICK if options.quick else ALL)
    failed = False
    with Bench(quick=options.quick, say=say) as bench:
        if options.profile:
            bench.profiles = PLACE / "profiles"
            bench.profiles.mkdir(parents=True, exist_ok=True)
        where = machine(bench.postgres.address)
        for name in names:
            failed = not _run(bench, name) or failed
    _publish(Report(machine=where, rows=bench.rows), options.output)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[[], *ALL], metavar="SCENARIO", help=", ".join(ALL))
    parser.add_argument("--quick", action="store_true", help="shorter, fewer; ends within 3 minutes")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="sample coordinator and one service with py-spy; see `python -m benchmarks.budget`",
    )
    parser.add_argument("--output", type=Path, default=PLACE / "results", help="directory of the JSON and the Markdown")
    return parser.parse_args()


def _run(bench: Bench, name: str) -> bool:
    began = time.monotonic()
    bench.say(f"{name} …")
    try:
        rows = importlib.import_module(f"benchmarks.scenarios.{name}").run(bench)
    except Exception as error:  # noqa: BLE001 - one scenario that fails must not cost the figures of the others
        traceback.print_exc()
        rows = [
            Row(scenario=name, key=f"{name}.failed", what=name, unit="", value=None, remark=f"failed: {error!r:.300}")
        ]
    bench.rows.extend(rows)
    for row in rows:
        value = "not measured" if row.value is None else f"{row.value:,.4g} {row.unit}"
        bench.say(f"  {row.what}: {value} {row.remark}")
    bench.say(f"  ({time.monotonic() - began:.0f} s)")
    return not any(row.key.endswith(".failed") for row in rows)


def _publish(report: Report, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for suffix, content in ((".json", report.json()), (".md", report.markdown())):
        (directory / f"{stem}{suffix}").write_text(content)
    print(report.markdown())
    print(f"Written: {directory / stem}.json and .md\n")
    print(json.dumps(report.headline()))


if __name__ == "__main__":
    sys.exit(main())
