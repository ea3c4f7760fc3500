"""Who does the harm: every kind once in an order drawn from the seed, then any, till time is over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.chaos.faults import KINDS, Course, World
from tests.chaos.history import History

#: Seconds that pass between the beginnings of two faults when time is not short.
USUAL_GAP = (5.0, 11.0)
#: Seconds beyond its time for kinds that have not struck yet: on a busy machine a restart takes long.
OVERTIME = 120.0
#: Part of the time in which every kind has begun once.
FIRST_ROUND = 0.8


@dataclass(slots=True, kw_only=True)
class _Fault:
    number: int
    kind: str
    target: str
    course: Course
    due: float


@dataclass(slots=True)
class Nemesis:
    """`turn()` does what is due and says when the next thing is. Several faults may be under way at a time."""

    world: World
    history: History
    random: Random
    seconds: float
    #: What it may do.
    kinds: Sequence[str] = tuple(sorted(KINDS))
    _plan: deque[str] = field(default_factory=deque)
    _struck: set[str] = field(default_factory=set)
    _running: list[_Fault] = field(default_factory=list)
    _count: int = 0
    _next: float = 0.0

    def __post_init__(self) -> None:
        kinds = list(self.kinds)
        self.random.shuffle(kinds)
        self._plan.extend(kinds)
        self._next = time.monotonic() + 2.0

    def run(self) -> None:
        """Till time is over, every kind has struck (or there is no hope that it will), and the last one is mended."""
        end = time.monotonic() + self.seconds
        while time.monotonic() < end or self._running or (self._missing and time.monotonic() < end + OVERTIME):
            self._mend()
            if time.monotonic() >= self._next:
                self._strike(self.kinds if time.monotonic() < end else self._missing)
            self.world.fleet.pause(0.1)

    @property
    def _missing(self) -> list[str]:
        """Kinds that have not struck yet, and are not about to."""
        return sorted(set(self.kinds) - self._struck - {fault.kind for fault in self._running})

    def _strike(self, kinds: Sequence[str]) -> None:
        """Begin the next fault whose target is whole: of the first round, then one of `kinds`."""
        if not self._plan and kinds:
            self._plan.append(self.random.choice(kinds))
        for kind in list(self._plan):
            target = self._target(kind)
            if target is None:
                continue
            self._plan.remove(kind)
            self._begin(kind, target)
            slowest = self.seconds * FIRST_ROUND / len(self.kinds)
            self._next = time.monotonic() + min(self.random.uniform(*USUAL_GAP), slowest)
            return

    def _target(self, kind: str) -> str | None:
        busy = {part for fault in self._running for part in fault.target.split("+")}
        free = [
            target
            for target in KINDS[kind].targets
            if busy.isdisjoint(target.split("+")) and all(map(self.world.fleet.is_whole, target.split("+")))
        ]
        return self.random.choice(free) if free else None

    def _begin(self, kind: str, target: str) -> None:
        self._count += 1
        course = KINDS[kind].do(self.world, target, self.random)
        self.history.write("fault", phase="begin", number=self._count, kind=kind, target=target)
        print(f"{kind} {target}", flush=True)
        fault = _Fault(number=self._count, kind=kind, target=target, course=course, due=0.0)
        self._running.append(fault)
        self._go_on(fault)

    def _mend(self) -> None:
        for fault in list(self._running):
            if time.monotonic() >= fault.due:
                self._go_on(fault)

    def _go_on(self, fault: _Fault) -> None:
        try:
            fault.due = time.monotonic() + next(fault.course)
        except StopIteration as over:
            self._running.remove(fault)
            if over.value is not None:
                self._struck.add(fault.kind)
            self.history.write(
                "fault", phase="end", number=fault.number, kind=fault.kind, target=fault.target, shown=over.value
            )
