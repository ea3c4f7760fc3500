"""`python -m tests.simulation.mutants`: does the simulation see it when a rule is broken?

Each mutant takes one rule out of the product, in this process only; schedules run till an oracle objects. They are the
plain swarm's; where a mutant names a focus, every second one has it. The table says which oracle it was, how many
schedules it took, and which focus the last one had. The last line is JSON: mutants, killed, table.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.simulation.focus import name_of
from tests.simulation.patching import MUTANTS, Mutant, Patch
from tests.simulation.run import TAPES, say
from tests.simulation.shrink import shrink
from tests.simulation.system import TIERS, run, settle
from tests.simulation.tape import Choices, Tape, save

#: Where mutants are; to import them is to have them in `MUTANTS`.
FILES = tuple(
    import_module(f"tests.simulation.{path.stem}") for path in sorted(Path(__file__).parent.glob("broken*.py"))
)
#: Where the schedules begin, for all mutants the same.
FIRST_SEED = 1
#: A set that takes seconds: mutants that die young, of every kind.
QUICK = (
    "reply_dedupe", "undo_dedupe", "participant_fence", "stored_reply", "revision_check", "offsets_before_work",
    "mark_before_publish", "publish_before_commit", "late_success", "undo_order", "undo_of_unknown", "pivot_timeout",
    "gate_open", "bug_compensates", "audit", "poison_dropped",
)  # fmt: skip


class Unfit(Exception):
    """A mutant does not fit the product any more: what it raised itself was survived, and then an oracle objected."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    name: str
    breaks: str
    oracle: str | None
    schedules: int
    seconds: float
    #: The schedule that killed it, and its focus.
    seed: int = 0
    focus: str | None = None


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The product with this rule broken."""
    patch = Patch()
    mutant.apply(patch)
    try:
        yield
    finally:
        patch.undo()
    if patch.mistakes:
        raise Unfit(patch.mistakes[0])


def hunt(name: str, limit: int, seconds: float, first: int = FIRST_SEED) -> Verdict:
    """Run schedules on a mutant till one is a violation."""
    mutant = MUTANTS[name]
    started = time.monotonic()
    with applied(mutant):
        for n in range(limit):
            focus = mutant.focus if n % 2 else None
            seed = first + (n // 2 if mutant.focus else n)
            oracle = _judged(seed, mutant.tier, focus)
            if oracle is not None:
                took = time.monotonic() - started
                return Verdict(name, mutant.breaks, oracle, n + 1, took, seed, focus or name_of(seed))
            if n % 64 == 0:
                gc.collect()
            if time.monotonic() - started > seconds:
                break
    return Verdict(name, mutant.breaks, None, n + 1, time.monotonic() - started)


def _judged(seed: int, tier: str, focus: str | None) -> str | None:
    """The oracle that objects to this schedule; None if all is well."""
    try:
        found = run(Tape(seed), TIERS[tier], focus=focus).violation
    except Exception as error:  # noqa: BLE001 - a mutant may break the product so much that it falls over
        return f"crash ({type(error).__name__})"
    return None if found is None else found.oracle


def record(verdict: Verdict) -> None:
    """Shrink the tape on which a mutant died, and keep it."""
    name, seed, oracle = verdict.name, verdict.seed, verdict.oracle
    tier = TIERS[MUTANTS[name].tier]
    with applied(MUTANTS[name]):

        def fails(choices: Choices) -> bool:
            # As it will be replayed: what the product spreads in time it spreads by the tape's seed.
            found = run(Tape(0, choices), tier).violation
            return found is not None and found.oracle == oracle

        recorded = run(Tape(seed), tier, focus=verdict.focus).tape.recorded
        if not fails(recorded):
            say(f"{name}: replayed, its tape does not bite; none is kept")
            return
        small = shrink(recorded, fails)
        message = str(run(Tape(0, small), tier).violation)[:300]
    save(TAPES / f"{name}.json", small, mutant=name, tier=MUTANTS[name].tier, oracle=oracle, seed=seed, message=message)


def _job(arguments: tuple[str, int, float, int]) -> Verdict:
    settle()
    try:
        return hunt(*arguments)
    except Unfit as unfit:
        name = arguments[0]
        return Verdict(
            name, f"{MUTANTS[name].breaks} (it does not fit the product: {unfit.args[0]!r:.120})", None, 0, 0.0
        )


def hunt_all(
    names: Sequence[str], jobs: int, limit: int, seconds: float, shown: Callable[[Verdict], Any]
) -> list[Verdict]:
    """All of them, a fresh process each."""
    context = multiprocessing.get_context("spawn")
    verdicts: list[Verdict] = []
    with context.Pool(jobs, maxtasksperchild=1) as pool:
        tasks = [(name, limit, seconds, FIRST_SEED) for name in names]
        for verdict in pool.imap_unordered(_job, tasks):
            verdicts.append(verdict)
            shown(verdict)
    return sorted(verdicts, key=lambda verdict: list(MUTANTS).index(verdict.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="these mutants only")
    parser.add_argument("--quick", action="store_true", help="a set that takes seconds")
    parser.add_argument("--record", action="store_true", help="shrink and keep the tape of each")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--limit", type=int, default=20_000, help="schedules for each")
    parser.add_argument("--seconds", type=float, default=300, help="seconds for each")
    options = parser.parse_args()
    names = options.names or (QUICK if options.quick else list(MUTANTS))

    def shown(verdict: Verdict) -> None:
        fate = f"killed by {verdict.oracle}" if verdict.oracle else "SURVIVED"
        if options.record and verdict.oracle is not None and not verdict.oracle.startswith("crash"):
            record(verdict)
        took = f"{verdict.schedules:6,} schedules  {verdict.seconds:6.1f} s"
        say(f"{verdict.name:24} {fate:32} {took}  {verdict.focus or ''}")

    verdicts = hunt_all(names, options.jobs, options.limit, options.seconds, shown)
    killed = sum(verdict.oracle is not None for verdict in verdicts)
    say("\n| mutant | what is broken | oracle | schedules | focus |\n|---|---|---|---|---|")
    for v in verdicts:
        say(f"| {v.name} | {v.breaks} | {v.oracle or '**survived**'} | {v.schedules:,} | {v.focus or ''} |")
    table = [{"mutant": v.name, "oracle": v.oracle, "schedules": v.schedules, "focus": v.focus} for v in verdicts]
    say(json.dumps({"mutants": len(verdicts), "killed": killed, "table": table}))
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
