"""`python -m tests.simulation.run --seconds 60 --jobs 2`: schedules from a fresh seed, till the time is over.

The last line is JSON: schedules, per_second (over all jobs), jobs, violations, seed.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from tests.simulation import points, tape
from tests.simulation.shrink import shrink
from tests.simulation.system import TIERS, settle
from tests.simulation.system import run as run_schedule
from tests.simulation.tape import Tape

TAPES = Path(__file__).parent / "tapes"
#: Seeds of one job are far from those of the next.
STRIDE = 1 << 32
#: Schedules after which it is no accident that something rare has never happened.
TELLING = 2_000
#: Failing tapes that are shrunk in one run; the others are counted.
MOST_SHRUNK = 5


def say(text: str) -> None:
    """A line for whoever runs this, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Tally:
    """What a run has seen."""

    schedules: int = 0
    turns: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.schedules += other.schedules
        self.turns += other.turns
        self.faults.update(other.faults)
        self.points.update(other.points)
        self.endings.update(other.endings)
        self.violations.extend(other.violations)


def work(tier: str, seed: int, seconds: float, out: Any) -> None:
    """One job: schedules from `seed` upwards; a tally every second."""
    settle()
    until = time.monotonic() + seconds
    tally, told = Tally(), time.monotonic()
    while (now := time.monotonic()) < until:
        outcome = run_schedule(Tape(seed), TIERS[tier])
        tally.schedules += 1
        tally.turns += outcome.turns
        tally.faults.update(outcome.faults)
        tally.points.update(outcome.points)
        tally.endings.update(outcome.endings)
        if outcome.violation is not None:
            tally.violations.append((outcome.violation.oracle, seed, outcome.violation.message))
        seed += 1
        if seed % 128 == 0:
            gc.collect()
        if now - told > 1:
            out.put(tally)
            tally, told = Tally(), now
    out.put(tally)
    out.put(None)


def simulate(tier: str, seconds: float, jobs: int, seed: int) -> tuple[Tally, float]:
    """(what was seen, how long it took)."""
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    started = time.monotonic()
    children = [
        context.Process(target=work, args=(tier, seed + job * STRIDE, seconds, out), daemon=True) for job in range(jobs)
    ]
    for child in children:
        child.start()
    tally, running, shown = Tally(), jobs, started
    while running:
        try:
            got = out.get(timeout=5)
        except Empty:
            if not any(child.is_alive() for child in children):
                raise SystemExit("a job died without a word") from None
            continue
        if got is None:
            running -= 1
            continue
        tally.add(got)
        for oracle, found_at, message in got.violations:
            say(f"        seed {found_at}: {oracle}: {message}")
        now = time.monotonic()
        if now - shown >= 10:
            shown = now
            say(
                f"{now - started:6.0f} s  {tally.schedules:,} schedules, {sum(tally.faults.values()):,} faults, "
                f"{len(tally.violations)} violations",
            )
    for child in children:
        child.join()
    return tally, time.monotonic() - started


def keep(tier: str, oracle: str, seed: int, message: str) -> Path:
    """Shrink the tape of a violation and save it."""
    recorded = run_schedule(Tape(seed), TIERS[tier]).tape.recorded

    def fails(choices: tape.Choices) -> bool:
        found = run_schedule(Tape(seed, choices), TIERS[tier]).violation
        return found is not None and found.oracle == oracle

    small = shrink(recorded, fails) if fails(recorded) else recorded
    path = TAPES / f"{oracle}-{seed}.json"
    tape.save(path, small, tier=tier, seed=seed, oracle=oracle, message=message[:300])
    return path


def report(tally: Tally) -> None:
    """For people."""
    sagas = max(1, sum(tally.endings.values()))
    say(f"\n{tally.schedules:,} schedules, {tally.turns:,} turns of loops, {sagas:,} sagas")
    say("endings:  " + ", ".join(f"{name} {100 * n / sagas:.1f} %" for name, n in tally.endings.most_common()))
    say("faults:   " + ", ".join(f"{name} {n:,}" for name, n in tally.faults.most_common()))
    reached = points.gathered(tally.points)
    say("reached:  " + ", ".join(f"{name} {n:,}" for name, n in reached.most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=None, help="start here instead of at a fresh seed")
    parser.add_argument("--tier", choices=tuple(TIERS), default="memory", help="what the databases are")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000_000_000
    say(f"seed {seed}, {options.tier} tier, {options.jobs} jobs, {options.seconds:g} s")
    tally, took = simulate(options.tier, options.seconds, options.jobs, seed)
    report(tally)
    settle()
    for oracle, failing, message in tally.violations[:MOST_SHRUNK]:
        say(f"VIOLATION of {oracle} at seed {failing}: {message}")
        say(f"  shrunk to {keep(options.tier, oracle, failing, message)}")
    vacuous: list[str] = []
    if tally.schedules >= TELLING:
        vacuous = points.missing(tally.schedules, tally.faults, points.gathered(tally.points), tally.endings)
    else:
        say(f"fewer than {TELLING:,} schedules: what has never happened in them is no sign of anything")
    for sentence in vacuous:
        say(f"VACUOUS: {sentence}")
    figures = {
        "schedules": tally.schedules,
        "per_second": round(tally.schedules / took, 1),
        "jobs": options.jobs,
        "tier": options.tier,
        "violations": len(tally.violations),
        "seed": seed,
        "faults": sum(tally.faults.values()),
        "vacuous": len(vacuous),
    }
    say(json.dumps(figures))
    return 1 if tally.violations or vacuous else 0


if __name__ == "__main__":
    sys.exit(main())
