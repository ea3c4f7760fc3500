"""`explore`: every fault at every step of a saga, one at a time, then in pairs, as far as the budget goes.

The order is fixed: the run without a fault; every single fault at every point of it; every fault at points that only
show up under another fault (compensations, fallbacks), the first time they do; then all other pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from segue.contract import Signal
from segue.errors import UsageError
from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.lint import lint
from segue.saga.retry import micros
from segue.testing.contracts import AnyActivity, saga_of
from segue.testing.failures import NondeterministicSaga, NotMocked
from segue.testing.faults import FAULTS_AT, ONCE, TRANSPARENT, Fault, Plan, PlannedFault, key_of, plan_of
from segue.testing.play import Play, Stand, World
from segue.testing.report import Case, Report, Undo, Violation
from segue.testing.rules import check, same

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741

#: A user's function for each activity; compensations may be left out.
Activities = Mapping[AnyActivity, Callable[[Any], Any]]

#: Runs, if the caller names no number: a second or two.
BUDGET = 500
#: Violations after which an exploration stops: more of the same help nobody.
MAX_VIOLATIONS = 20


def explore(
    definition: SagaDefinition[I, O],
    *,
    input: I,
    activities: Activities | Callable[[], Activities],
    signals: Mapping[Signal[Any], Any] | None = None,
    check: Callable[[Case], None] | None = None,
    budget: int = BUDGET,
    until: timedelta | None = None,
    only: str | None = None,
) -> Report:
    """Play the saga under every fault at every step, `budget` runs at most, and report what became of it.

    `activities` are functions of the input, as handlers would have them (Rejected and other exceptions included); those
    that keep books between calls come from a function that makes fresh ones for each run. `signals` are sent when the
    saga waits for them. `check` gets every finished case and asserts what must hold in your own books. A saga that
    lives for ever is left `until` after its start. `only` plays one plan of a report once more. What it finds is in the
    report: `raise_for_violations()` makes a failure of it. Raises NotMocked for an activity without a function, and
    UsageError for what is no saga or activity, a budget below 1, or an `only` that does not fit the saga.
    """
    saga_of(definition)
    if budget < 1:
        raise UsageError(f"budget={budget}, an exploration needs at least one run")
    if until is not None and until <= timedelta(0):
        raise UsageError(f"until={until}, it must be positive")
    fresh = activities if callable(activities) else lambda: activities
    world = World(
        definition=definition,
        input=input,
        activities=fresh,
        signals=signals or {},
        until=None if until is None else micros(until),
    )
    explorer = _Explorer(world, check, budget)
    if only is not None:
        explorer.again(only)
    else:
        explorer.explore()
    return explorer.report


class _Explorer:
    def __init__(self, world: World, user_check: Callable[[Case], None] | None, budget: int) -> None:
        self.world = world
        self.user_check = user_check
        self.budget = budget
        self.report = Report(saga=world.definition.name, version=world.definition.version, budget=budget)
        self.report.lint = tuple(f"{x.file.rpartition('/')[2]}:{x.line}: {x.what}" for x in lint(world.definition))
        self.stands: dict[str, Stand] = {}
        #: Nothing more is to be learned under other hash seeds; where it was learned: the steps of a run.
        self.reseeded = False
        self.elsewhere: set[frozenset[str]] = set()
        self.seen: set[tuple[str, Fault]] = set()
        self.singles: deque[Plan] = deque()
        self.firsts: deque[Plan] = deque()
        self.pairs: deque[Plan] = deque()

    def explore(self) -> None:
        self.play(())
        while self.report.runs < self.budget and len(self.report.violations) < MAX_VIOLATIONS:
            queue = self.singles or self.firsts or self.pairs
            if not queue:
                break
            self.play(queue.popleft())
        self.report.left = len(self.singles) + len(self.firsts), len(self.pairs)

    def again(self, key: str) -> None:
        """Play one plan once more; what its faults are about is known only then."""
        plan, self.report.only = plan_of(key), key
        play = Play(self.world, plan)
        with suppress(AssertionError):
            play.run()
        points = {point.number: point for point in play.points}
        known = tuple(PlannedFault(points.get(one.point.number, one.point), one.fault) for one in plan)
        for planned in known:
            if planned.point.number not in points or planned.fault not in FAULTS_AT[planned.point.kind]:
                raise UsageError(f"only={key!r} is no plan of this saga: no such fault at {planned.point.subject}")
        self.play(known)

    def play(self, plan: Plan) -> None:
        play = Play(self.world, plan)
        self.report.runs += 1
        try:
            play.run()
        except NotMocked:
            raise
        except AssertionError as error:
            # The code is not deterministic, it never ends, or a user's function asserts something.
            message = str(error).partition("\nthe conversation so far:")[0]
            self._violation(play, plan, type(error).__name__, message)
            return
        case = self._case(play, plan)
        self.report.cases.append(case)
        self._reseeded(play, plan)
        self.stands[key_of(plan)] = play.stands[0]
        for rule, message in [*check(play), *self._unnoticed(play, plan)]:
            self._violation(play, plan, rule, message)
        self._users_own(play, plan, case)
        self._note(play)
        self._plan_on(play, plan)

    def _reseeded(self, play: Play, plan: Plan) -> None:
        """Under other hash seeds the code does the same, wherever it has come to steps that it had not come to before.

        Where it does not, or where nobody can tell, that is said once.
        """
        steps = frozenset(play.saga.steps)
        if self.reseeded or steps in self.elsewhere:
            return
        self.elsewhere.add(steps)
        try:
            play.saga.replay_elsewhere(self.world.definition)
        except NondeterministicSaga as error:
            message = str(error).partition("\nthe conversation so far:")[0]
            self._violation(play, plan, "hash seeds", message)
            self.reseeded = True
        self.report.not_reseeded = play.saga.elsewhere
        self.reseeded = self.reseeded or bool(play.saga.elsewhere)

    def _unnoticed(self, play: Play, plan: Plan) -> list[tuple[str, str]]:
        if not plan:
            evicted, kept = play.saga.rows, Play(self.world, (), evict=False)
            kept.run()
            return [] if kept.saga.rows == evicted else [("duplicates", "bringing the saga back changes its history")]
        expected = self.stands.get(key_of(plan[:-1]))
        if plan[-1].fault not in TRANSPARENT or expected is None:
            return []
        return list(same(expected, play.stands[0], str(plan[-1])))

    def _users_own(self, play: Play, plan: Plan, case: Case) -> None:
        if self.user_check is None:
            return
        try:
            self.user_check(case)
        except AssertionError as error:
            self._violation(play, plan, "check", str(error) or "the check fails")

    def _violation(self, play: Play, plan: Plan, rule: str, message: str) -> None:
        self.report.violations.append(
            Violation(rule=rule, message=message, plan=plan, conversation=play.saga.story().strip())
        )

    def _case(self, play: Play, plan: Plan) -> Case:
        first, last = play.stands[0], play.stands[-1]
        steps = play.saga.steps
        return Case(
            plan=plan,
            status=first.status,
            attention=first.attention,
            error=first.error,
            after_retry=last.status if len(play.stands) > 1 else "",
            attention_after_retry=last.attention if len(play.stands) > 1 else "none",
            standing=tuple(steps[name].activity for name in play.truth.standing),
            compensated=tuple(steps[name].compensate for name in play.truth.undone),
        )

    def _note(self, play: Play) -> None:
        """What the run adds to coverage and warnings."""
        report, state, steps = self.report, play.saga.state, play.saga.steps
        report.never_sent |= play.unsent
        for step in steps.values():
            if step.compensate:
                report.undos.setdefault(step.compensate, Undo(activity=step.activity))
            elif not step.readonly and not step.optional:
                report.may_be_in_doubt.setdefault(step.activity, 0)
            if (
                not step.compensate
                and step.name in play.truth.standing
                and state.status in ("compensated", "cancelled", "failed")
            ):
                report.left_standing[step.activity] = report.left_standing.get(step.activity, 0) + 1
        for (name, after), times in play.truth.exercised.items():
            report.undos[name].ran[after] += times
        for _, event in play.saga.events:
            match event:
                case e.StepInDoubt():
                    activity = steps[event.step].activity
                    report.may_be_in_doubt[activity] = report.may_be_in_doubt.get(activity, 0) + 1
                case e.UndoDeferred():
                    report.undos[steps[event.step].compensate].deferred += 1
                case _:
                    pass

    def _plan_on(self, play: Play, plan: Plan) -> None:
        """Plan one more fault at each point behind the last one."""
        after = plan[-1].point.number if plan else 0
        # A second fault of the same messages would only replace the first.
        taken = {planned.point.subject for planned in plan if planned.fault not in ONCE}
        points = [point for point in play.points if point.number > after and point.subject not in taken]
        for point in points:
            for fault in FAULTS_AT[point.kind]:
                longer = (*plan, PlannedFault(point, fault))
                first = (point.group, fault) not in self.seen
                self.seen.add((point.group, fault))
                if not plan:
                    self.singles.append(longer)
                elif first:
                    self.firsts.append(longer)
                elif len(longer) == 2:
                    self.pairs.append(longer)
        if not plan:
            # What the saga's own failures lead to is told before what a person's cancel leads to.
            self.singles = deque(sorted(self.singles, key=lambda single: single[-1].fault is Fault.CANCELLED))
