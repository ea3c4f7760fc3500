"""Where the time goes: `python -m benchmarks.budget PROFILE [--us 205] [--top 30]`, from a run with `--profile`.

`--us` is what one transition (or command) cost the process, as the run has found; shares become microseconds of it.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Frames of a line in py-spy's raw format are separated by `;`, and end with their line number.
_LINE_NUMBER = re.compile(r":\d+\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Samples by function: those in its own code, and those in it or in what it called."""

    samples: int
    own: Counter[str]
    total: Counter[str]


def budget(lines: Iterable[str]) -> Budget:
    """Add up the stacks of a raw profile."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if not stack:
            continue
        frames = [_LINE_NUMBER.sub(")", frame) for frame in stack.split(";")]
        samples += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    return Budget(samples=samples, own=own, total=total)


def table(found: Budget, us: float | None, top: int) -> str:
    """Two Markdown tables: by own time, and by time with callees."""
    parts = []
    for title, counts in (("own time", found.own), ("with what it calls", found.total)):
        lines = [f"| function, {title} | share |{' µs |' if us else ''}", f"|---|---|{'---|' if us else ''}"]
        for name, count in counts.most_common(top):
            share = count / found.samples
            lines.append(f"| `{name}` | {share:.1%} |" + (f" {share * us:.1f} |" if us else ""))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables of one profile."""
    parser = argparse.ArgumentParser(prog="benchmarks.budget", description=__doc__)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--us", type=float, default=None, help="microseconds of CPU that the whole cost")
    parser.add_argument("--top", type=int, default=30)
    options = parser.parse_args()
    with options.profile.open() as lines:
        print(table(budget(lines), options.us, options.top))


if __name__ == "__main__":
    main()
