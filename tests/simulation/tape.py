"""Every choice of a schedule, on one tape: drawn from a seed, recorded as it is drawn, replayed, and shrunk.

A choice is a number; 0 is the benign one. Choices belong to streams (one for each actor) and are numbered within their
stream, so that taking away what one actor does leaves the choices of the others where they were. Only what is not 0 is
recorded.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from math import log
from pathlib import Path
from random import Random

Choices = dict[str, dict[int, int]]
#: A gap that no schedule is long enough to reach.
FAR = 1 << 60
#: A fault is one number: which, and how, is read out of it.
FAULT_RANGE = 1 << 20


class Tape:
    """Draws from `seed`, or replays `choices`; `recorded` is what was not benign."""

    def __init__(self, seed: int = 0, choices: Mapping[str, Mapping[int, int]] | None = None) -> None:
        self.seed = seed
        self.random = Random(seed) if choices is None else None
        self.choices = choices or {}
        self.recorded: Choices = {}

    def stream(self, name: str) -> Stream:
        """The choices of one actor."""
        return Stream(self, name)

    def told(self, name: str, value: int) -> int:
        """A choice that is not drawn but made elsewhere; recorded and replayed like the others."""
        if self.random is None:
            return self.choices.get(name, {}).get(1, 0)
        if value:
            self.recorded[name] = {1: value}
        return value


class Stream:
    """Numbered choices of one actor."""

    __slots__ = ("_log_of_rest", "_played", "_recorded", "count", "faults", "name", "next_fault", "tape")

    def __init__(self, tape: Tape, name: str) -> None:
        self.tape = tape
        self.name = name
        self.count = 0
        self._played = tape.choices.get(name, {})
        self._recorded = tape.recorded.setdefault(name, {})
        #: Boundaries crossed, and the number of the next one at which something happens.
        self.faults = 0
        self.next_fault = FAR
        self._log_of_rest = 0.0

    def pick(self, n: int) -> int:
        """One of 0 … n - 1."""
        self.count += 1
        random = self.tape.random
        if random is None:
            value = self._played.get(self.count, 0)
            return value if value < n else n - 1
        value = int(random.random() * n)
        if value:
            self._recorded[self.count] = value
        return value

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        self.count += 1
        random = self.tape.random
        if random is None:
            return self._played.get(self.count, 0) > 0
        if p > 0 and random.random() < p:
            self._recorded[self.count] = 1
            return True
        return False

    # --- faults at boundaries: numbered with negative numbers, so that they do not shift the choices

    def arm(self, rate: float) -> None:
        """From now on something happens at one boundary in 1 / `rate`."""
        if self.tape.random is None:
            self.next_fault = self._played_fault()
        elif rate > 0:
            self._log_of_rest = log(1.0 - rate)
            self.next_fault = self.faults + self._gap(self.tape.random)
        else:
            self.next_fault = FAR

    def disarm(self) -> None:
        """No more faults."""
        self.next_fault = FAR

    def fault(self) -> int:
        """The number of what happens at this boundary; call it when `faults` has come to `next_fault`."""
        random = self.tape.random
        if random is None:
            value = self._played.get(-self.faults, 0)
            self.next_fault = self._played_fault()
            return value
        value = 1 + int(random.random() * FAULT_RANGE)
        self._recorded[-self.faults] = value
        self.next_fault = self.faults + self._gap(random)
        return value

    def _gap(self, random: Random) -> int:
        return 1 + int(log(1.0 - random.random()) / self._log_of_rest)

    def _played_fault(self) -> int:
        numbers = sorted(-n for n in self._played if n < 0)
        at = bisect_right(numbers, self.faults)
        return numbers[at] if at < len(numbers) else FAR


def size(choices: Mapping[str, Mapping[int, int]]) -> int:
    """How many choices are not benign."""
    return sum(map(len, choices.values()))


def save(path: Path, choices: Mapping[str, Mapping[int, int]], **notes: object) -> None:
    """Write a tape to a file that people can read."""
    kept = {name: {str(n): value for n, value in stream.items()} for name, stream in sorted(choices.items()) if stream}
    path.write_text(json.dumps({**notes, "choices": kept}, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, object], Choices]:
    """(notes, choices) of a saved tape."""
    notes = json.loads(path.read_text())
    choices = notes.pop("choices")
    return notes, {name: {int(n): int(value) for n, value in stream.items()} for name, stream in choices.items()}
