"""What a saga's code has been told of each step, reckoned from its history alone.

The history says nothing of it in so many words: code takes what waits for it in the fold, up to where the history says
that it could not go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from segue.saga import events as e
from segue.saga.fold import apply, end_transition
from segue.saga.state import SagaState
from segue.saga.steps import Delivery, Step

#: `nothing` is what the code gets of a step that it can do without, or that a person skipped.
Word = Literal["success", "error", "nothing"]

_OUTCOMES = (e.StepSucceeded, e.StepFailed, e.StepUnknown, e.StepSkipped)
_ENDS = frozenset((e.StopRequested, e.ProgramReturned, e.RunEnded, e.SagaParked))


class Told:
    """What the code of one saga knows, transition by transition."""

    __slots__ = ("_left", "_successes", "state", "words")

    def __init__(self, saga_id: str) -> None:
        self.state = SagaState(saga_id)
        #: By step, for the present run: what the code was told, or will be as soon as it is here and goes on.
        self.words: dict[str, Word] = {}
        #: Steps whose code waits for them no more, and steps whose success waits to be told or was.
        self._left: set[str] = set()
        self._successes: set[str] = set()

    def transition(self, events: Sequence[e.AnyEvent], at: int) -> None:
        """Take in one row of the history."""
        state = self.state
        for event in events:
            if isinstance(event, e.Undriven):
                self._take(state.deliveries[: len(state.deliveries) - event.pending])
            elif isinstance(event, e.StepAbandoned):
                self._abandoned(state.steps[event.step])
            elif isinstance(event, e.UndoRequested):
                self._left.update(event.steps)
                self.words.update(dict.fromkeys(event.steps, "error"))  # it is to be undone, as after one
            elif isinstance(event, e.Continued):
                self.words.clear()
            elif state.deliveries and type(event) in _ENDS:
                self._take(state.deliveries)  # they are dropped: it has come to its end, or will never know
            apply(state, event, at)
            if isinstance(event, _OUTCOMES):
                self._outcome(event)
        self._take(state.deliveries)
        end_transition(state, at)

    def _abandoned(self, step: Step) -> None:
        self._left.add(step.name)
        self.words.pop(step.name, None)
        if not step.optional:
            self.words[step.name] = "error"  # it goes on as after one

    def _outcome(self, event: e.StepSucceeded | e.StepFailed | e.StepUnknown | e.StepSkipped) -> None:
        told = any(one.step == event.step and one.settled == self.state.count for one in self.state.deliveries)
        if told and isinstance(event, e.StepSucceeded):
            self._successes.add(event.step)
        elif told:
            self._successes.discard(event.step)

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.kind != "step" or delivery.step in self._left:
                continue
            if delivery.error is not None:
                self.words[delivery.step] = "error"
            else:
                self.words[delivery.step] = "success" if delivery.step in self._successes else "nothing"


def disagreements(told: Told) -> Iterator[str]:
    """Where what the code was told of a step and what becomes of the step do not agree, while the saga goes on."""
    state = told.state
    if state.stop is not None or state.pivot:
        return  # all is undone by now, or nothing is undone by itself
    for name, word in told.words.items():
        step = state.steps[name]
        undone = step.undo.status != "none" or step.abandoned
        if word == "success" and step.status != "succeeded":
            yield f"the code was told that {name} succeeded, and it is {step.status}"
        elif word == "success" and undone:
            yield f"the code was told that {name} succeeded, and it is undone"
        elif word == "nothing" and undone:
            yield f"the code goes on without {name} for good, and it is undone"
        elif word == "error" and step.status in ("succeeded", "unknown") and step.compensate and not undone:
            yield f"the code was told that {name} failed, and what it has done stands"
