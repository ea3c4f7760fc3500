"""How many commands share a transaction: learned from what handlers do, so that nothing need be configured.

A group pays where handlers do little but talk to the database. So its length is bounded by the time that its handlers
take: a handler that waits for something else is soon run alone, in parallel with others. A group that fails was too
long: the next one of that activity has a quarter of its length, and each success doubles it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from segue.clock import Clock

#: Seconds that the handlers of a group may take together, by their mean; a running group ends early after twice that.
BUDGET = 0.05
#: Seconds of a handler, on average, from which on it always runs alone.
SLOW = 0.02
#: Length of the first group of an activity about which nothing is known.
FIRST = 4
#: Commands of an activity that are run behind savepoints, within a group, after one of them was rejected.
WARY = 500
#: Seconds for which groups run one at a time, after two of them stood in each other's way.
CROWDED = 30.0
#: Weight of the last duration in the mean.
_WEIGHT = 0.1


@dataclass(slots=True)
class _Habit:
    limit: int
    seconds: float = 0.0
    wary: int = 0


class Pace:
    """What is known of the activities. Used by many threads; a lost update costs nothing but speed."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._habits: dict[str, _Habit] = {}
        self._crowded_until = 0.0

    def length(self, activity: str) -> int:
        """How many commands a group with this one in it may have; 1: it runs alone."""
        habit = self._of(activity)
        if habit.seconds >= SLOW:
            return 1
        by_time = int(BUDGET / habit.seconds) if habit.seconds > BUDGET / self._most else self._most
        return max(1, min(self._most, habit.limit, by_time))

    def is_slow(self, activity: str) -> bool:
        """It waits for something else than the database: it may have a thread of its own."""
        return self._of(activity).seconds >= SLOW

    def deadline(self) -> float:
        """When a group that begins now has to end (monotonic seconds)."""
        return self._clock.monotonic() + 2 * BUDGET

    def is_over(self, deadline: float) -> bool:
        """No further command is to be begun."""
        return self._clock.monotonic() >= deadline

    @contextmanager
    def measured(self, activity: str) -> Iterator[None]:
        """Around a handler."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            habit = self._of(activity)
            habit.seconds += (self._clock.monotonic() - began - habit.seconds) * _WEIGHT

    def went_well(self, activity: str) -> None:
        """It was handled and committed."""
        habit = self._of(activity)
        if habit.limit < self._most:
            habit.limit = min(self._most, habit.limit * 2)

    def broke(self, activity: str) -> None:
        """It was the end of a group."""
        habit = self._of(activity)
        habit.limit = max(1, habit.limit // 4)

    def collided(self, activities: Iterable[str]) -> None:
        """A group of these lost a race for rows: first groups run one at a time, then they get shorter."""
        now = self._clock.monotonic()
        if now < self._crowded_until:
            for activity in activities:
                self.broke(activity)
        self._crowded_until = now + CROWDED

    def at_once(self, most: int) -> int:
        """How many groups may run at the same time."""
        return 1 if self._clock.monotonic() < self._crowded_until else most

    def rejected(self, activity: str) -> None:
        """It rejected a command; what it had written by then, nobody but the database knows."""
        self._of(activity).wary = WARY

    def wants_savepoint(self, activity: str) -> bool:
        """True while rejections of this kind are likely; counts as one command."""
        habit = self._of(activity)
        if habit.wary:
            habit.wary -= 1
            return True
        return False

    def _of(self, activity: str) -> _Habit:
        return self._habits.get(activity) or self._habits.setdefault(activity, _Habit(min(FIRST, self._most)))
