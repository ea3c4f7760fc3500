"""What must hold in every run, whatever goes wrong: the promises of the engine, checked against what services did.

ends or waits       the saga has ended with nothing left open, or shows that it waits for a person or a signal, or lives
                    on when the user has seen enough of it
code                the saga's code did not fail with a bug
told                what the code was told of a step and what becomes of it agree, after every transition
completed           what counts as done is done, and nothing is done that counts as refused
undone              after a full undo nothing stands that has a compensation, but what a person gave up; and never
                    what the saga's code has abandoned
only what was done  compensations are sent for steps whose outcome is success or unknown, for no others
reverse order       a step is undone only after everything that was called after it had ended
pivot               nothing is undone after the pivot but what the code had given up before, or if a person cancels
once                nothing is done after it was undone
mismatch            nothing is refused, given up or undone because a worker lacked an activity
duplicates          duplicates and a crash before the commit change nothing
hash seeds          brought back in a process with another hash seed, the code does the same
"""

from __future__ import annotations

from collections.abc import Iterator

from segue.saga import events as e
from segue.testing.answers import LACKING
from segue.testing.play import Play, Stand
from segue.testing.told import Told, disagreements

#: (rule, what was found)
Finding = tuple[str, str]


def check(play: Play) -> Iterator[Finding]:
    """Everything that is wrong with this run."""
    yield from _ends(play)
    yield from _told(play)
    yield from _effects(play)
    events = [event for _, event in play.saga.events]
    yield from _only_what_was_done(events)
    yield from _reverse_order(events)
    yield from _pivot(events)
    yield from _mismatch(events)
    for anomaly in play.truth.anomalies:
        yield "once", anomaly


def same(expected: Stand, found: Stand, fault: str) -> Iterator[Finding]:
    """A fault that nobody may notice."""
    if expected != found:
        yield "duplicates", f"{fault} makes of {_stand(expected)} {_stand(found)}"


def _stand(stand: Stand) -> str:
    return " ".join(part for part in (stand.status, stand.attention.replace("none", ""), stand.error) if part)


def _ends(play: Play) -> Iterator[Finding]:
    state = play.saga.state
    if state.attention == "blocked":
        failure = state.blocked
        yield "code", f"the saga's code fails: {failure.code}: {failure.message}" if failure else "blocked"
    elif state.ended and state.open_steps:
        yield "ends or waits", f"the saga has ended while {', '.join(state.open_steps)} is not settled"
    elif not state.ended and state.attention == "none" and not state.receives and not play.left_alive:
        yield "ends or waits", f"nothing moves the saga any more: {play.saga.situation()}"


def _told(play: Play) -> Iterator[Finding]:
    told = Told(play.saga.saga_id)
    for at, payload in play.saga.rows:
        told.transition(e.decode_events(payload), at)
        for disagreement in disagreements(told):
            yield "told", disagreement
            return


def _effects(play: Play) -> Iterator[Finding]:
    state, standing = play.saga.state, play.truth.standing
    if not state.ended:
        return
    undone = state.stop is not None and state.stop.compensate == "all" and not state.pivot
    for step in play.saga.steps.values():
        stands = step.name in standing
        if stands and step.status == "failed":
            yield "completed", f"{step.name} counts as refused, but its effect stands"
        if step.status == "succeeded" and not stands and step.undo.status != "done" and not step.readonly:
            yield "completed", f"{step.name} counts as done, but it is not"
        covered = (undone and step.name in state.steps) or step.abandoned
        if covered and stands and step.compensate and step.undo.status != "given_up":
            yield "undone", f"the saga is {state.status}, but the effect of {step.name} stands"


def _only_what_was_done(events: list[e.AnyEvent]) -> Iterator[Finding]:
    to_undo: set[str] = set()
    for event in events:
        match event:
            case e.StepSucceeded() | e.StepUnknown() | e.StepAbandoned():
                to_undo.add(event.step)
            case e.StepFailed():
                to_undo.discard(event.step)
            case e.CommandSent(action="compensate") if event.step not in to_undo:
                yield "only what was done", f"{event.step} is undone, though it neither succeeded nor is unknown"
            case _:
                pass


def _reverse_order(events: list[e.AnyEvent]) -> Iterator[Finding]:
    """Of two steps that both are undone after the stop, the one that began after the other had ended goes first."""
    begun: dict[str, int] = {}
    settled: dict[str, int] = {}
    over: dict[str, int] = {}
    stopped = len(events)
    undos: list[tuple[int, str]] = []
    for n, event in enumerate(events):
        match event:
            case e.StopRequested():
                stopped = n
            case e.StepScheduled():
                begun[event.step] = n
            case e.StepSucceeded() | e.StepUnknown():
                settled.setdefault(event.step, n)
            case e.StepUndone() | e.UndoDeferred() | e.UndoGivenUp():
                over.setdefault(event.step, n)
            case e.CommandSent(action="compensate", attempt=1) if n > stopped:
                undos.append((n, event.step))
            case _:
                pass
    for at, earlier in undos:
        for _, later in undos:
            follows = settled.get(earlier, stopped) < begun[later]
            if later != earlier and follows and over.get(later, len(events)) > at:
                yield "reverse order", f"{earlier} is undone before {later}, which was called after it"


def _pivot(events: list[e.AnyEvent]) -> Iterator[Finding]:
    passed = False
    given_up: set[str] = set()
    for event in events:
        match event:
            case e.PivotPassed():
                passed = True
            case e.StopRequested(cause="cancel") | e.Continued():
                passed = False
            case e.StepUnknown() | e.StepAbandoned() if not passed:
                given_up.add(event.step)
            case e.UndoRequested():
                given_up.update(event.steps)
            case e.CommandSent(action="compensate", attempt=1) if passed and event.step not in given_up:
                yield "pivot", f"{event.step} is undone after the pivot"
            case _:
                pass


def _mismatch(events: list[e.AnyEvent]) -> Iterator[Finding]:
    stopped = False
    left: set[str] = set()
    for event in events:
        match event:
            case e.StepAbandoned():
                left.add(event.step)
            case e.StepFailed() | e.StepSkipped() | e.StepUnknown() if event.error.code == LACKING:
                if not stopped and event.step not in left:
                    yield "mismatch", f"{event.step} counts as {_AS[type(event)]}, as workers lacked it"
            case e.StopRequested():
                if event.cause == "failure" and event.error.code == LACKING:
                    yield "mismatch", "the saga is undone, as workers lacked an activity"
                stopped = True
            case _:
                pass


#: What a step counts as after each of these.
_AS = {e.StepFailed: "refused", e.StepSkipped: "skipped", e.StepUnknown: "unknown"}
