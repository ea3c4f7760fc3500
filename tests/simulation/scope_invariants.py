"""What a saga's code wants undone now: in reverse, once, and before the code goes on."""

from __future__ import annotations

from collections.abc import Sequence

from segue.saga import events as e
from tests.simulation.oracles import Commit, Oracle, Oracles
from tests.simulation.shadow import SagaSeen, StepSeen


class SCOPES(Oracle):
    """A part of a saga is undone in reverse of what happened, and its code goes on only when it is undone."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: By saga, the requests that are not over, as far as nobody stops the saga.
        self.open: dict[str, list[e.UndoRequested]] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        requests = self.open.get(saga.id, [])
        match event:
            case e.UndoRequested():
                self.open.setdefault(saga.id, []).append(event)
                self.all.system.world.points["undone_part"] += 1
            case e.StopRequested() | e.Continued():
                self.open.pop(saga.id, None)
            case e.CommandSent(action="compensate", attempt=1):
                for request in requests:
                    if event.step in request.steps:
                        self._in_turn(saga, request, saga.steps[event.step])
            case _:
                pass

    def transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        requests = self.open.get(saga.id)
        if requests:
            left = [one for one in requests if any(_is_open(saga.steps[name]) for name in one.steps)]
            asked = [event for event in events if isinstance(event, e.StepScheduled)]
            if asked and left and left == requests and len(requests) == 1 and requests[0] not in events:
                self.fail(f"{saga.id} goes on with {asked[0].step}, and its part {left[0].steps} is not undone")
            requests[:] = left

    def _in_turn(self, saga: SagaSeen, request: e.UndoRequested, step: StepSeen) -> None:
        for name in request.steps:
            later = saga.steps[name]
            if step.settled_at < later.issued_at and _is_open(later) and later.undo != "deferred":
                self.fail(f"{saga.id}: {step.name} is undone before {name}, which was called after it")


class GIVEBACK(Oracle):
    """A saga whose code has all undone and has a result ends as compensated, with that result and without an error."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.Ended) and saga.stop is not None and saga.stop.cause == "returned":
            self.all.system.world.points["given_back"] += 1
            if event.status != "compensated":
                self.fail(f"{saga.id} has had all undone, and ends as {event.status}")

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                stop = self.all.shadow.of(row.id).stop
                if stop is None or stop.cause != "returned":
                    continue
                if row.result is None or not row.result.startswith(b'"given back'):
                    self.fail(f"{row.id} has all undone with a result, and its row has {row.result!r}")
                if row.error_code is not None:
                    self.fail(f"{row.id} has all undone because its code wants it, and its row says {row.error_code}")


def _is_open(step: StepSeen) -> bool:
    """It is to be undone, and nobody has done it or given it up."""
    return step.status in ("succeeded", "unknown") and step.undo not in ("done", "given_up")
