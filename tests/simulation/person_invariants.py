"""While a person is waited for: the saga's deadline stands still, and what was first stays the cause."""

from __future__ import annotations

from collections.abc import Sequence

from segue.saga import events as e
from tests.simulation.oracles import Commit, Oracle, Oracles
from tests.simulation.shadow import NEVER, SagaSeen, StepSeen


def _is_new_deadline(event: e.AnyEvent) -> bool:
    """Whether the saga has another deadline from this event on; a failure that is held back leaves it where it is."""
    return isinstance(event, e.Started | e.RunEnded) or (isinstance(event, e.StopHeld) and event.cause == "deadline")


class _Clock:
    """How long one saga's deadline has stood still so far."""

    __slots__ = ("base", "last", "stands", "still")

    def __init__(self, base: int, last: int) -> None:
        self.base, self.last, self.stands, self.still = base, last, False, 0


class STILL(Oracle):
    """A saga's deadline is what was promised and the time in which a person, or its code, was waited for; no less."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.clocks: dict[str, _Clock] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.StopRequested) and event.cause == "deadline" and (saga.waits or saga.undriven):
            self.fail(f"{saga.id} waits for a person or its code, and its deadline stops it")

    def transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        clock = self.clocks.get(saga.id)
        if clock is None or any(map(_is_new_deadline, events)):
            clock = self.clocks[saga.id] = _Clock(saga.deadline, at)
        elif clock.stands:
            clock.still += at - clock.last
        # Where answers may be lost, all that waits for them gets the time in which they are asked for again.
        clock.still += sum(event.shift for event in events if isinstance(event, e.Redriven) and event.since)
        clock.last, clock.stands = at, saga.waits or saga.undriven
        goes_on = saga.stop is None and saga.ended is None and not saga.deadline_missed and not clock.stands
        if goes_on and saga.deadline < NEVER and saga.deadline != clock.base + clock.still:
            given = saga.deadline - clock.base
            self.fail(f"{saga.id}: its deadline stood still for {clock.still} us, and gets {given} of them back")
        if clock.still and goes_on and saga.deadline < NEVER:
            self.all.system.world.points["stood_still"] += 1


class CAUSE(Oracle):
    """What a person was waited for stays the error of a saga that a deadline or a person ends."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.causes: dict[str, tuple[str, str]] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.StepParked() | e.StepInDoubt() if saga.stop is None and self._is_first(saga, event.step):
                self.causes[saga.id] = event.step, event.error.code
            case e.StopRequested() if event.cause != "cancel" or not self._is_cause(saga):
                self.causes.pop(saga.id, None)
            case _:
                pass

    def _is_first(self, saga: SagaSeen, step: str) -> bool:
        """Whether the saga begins to wait, or still waits for the same step, of which more is known now."""
        known, _ = self.causes.get(saga.id, ("", ""))
        return (not saga.waits and not saga.blocked) or known == step

    def _is_cause(self, saga: SagaSeen) -> bool:
        """Whether the saga still waits for what it waited for, and for nothing else."""
        if saga.blocked or saga.parked or saga.held_until < NEVER or saga.id not in self.causes:
            return False
        return [step.name for step in saga.steps.values() if _troubled(step)] == [self.causes[saga.id][0]]

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in changes.updated:
                _, cause = self.causes.get(row.id, ("", row.error_code))
                if self.all.shadow.of(row.id).stop is not None and row.error_code != cause:
                    self.fail(f"{row.id} waited for a person because of {cause}, and its error is {row.error_code}")


def _troubled(step: StepSeen) -> bool:
    return step.status in ("parked", "in_doubt") or step.undo == "deferred"
