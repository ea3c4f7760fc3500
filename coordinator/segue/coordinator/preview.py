"""What an operator's action would do to a saga: the engine itself, run on a copy that is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from segue.clock import to_micros
from segue.coordinator.sentences import sentence
from segue.coordinator.store import EventRow
from segue.errors import DecodeError
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.fold import fold
from segue.saga.inputs import Input, RetryStep
from segue.saga.replay import of_last_run
from segue.saga.transition import advance
from segue.saga.turn import Instance


def preview(saga_id: str, history: Sequence[EventRow], request: Input, now: datetime) -> tuple[bool, list[str]]:
    """(whether it would be accepted, what would happen at once: a sentence each, or why not).

    What the saga's own code does next is not foretold: it does not run here.
    """
    try:
        state = fold(saga_id, of_last_run([(to_micros(row.at), row.payload) for row in history]))
    except DecodeError as error:
        return False, [str(error)]
    if state.blocked is not None and isinstance(request, RetryStep) and request.step is None:
        return True, ["the saga's code is tried again by a coordinator that has it"]
    moved = advance(Instance(state), request, to_micros(now))
    if isinstance(moved, Ignored):
        return False, [f"{moved.reason}: {moved.detail}" if moved.detail else moved.reason]
    return True, [sentence(event) for event in moved.events if not isinstance(event, e.Undriven)]
