"""From the engine's state to the row that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from segue.clock import from_micros
from segue.coordinator.sentences import blocked_by
from segue.coordinator.store import SagaRow
from segue.saga.state import SagaState
from segue.saga.steps import NEVER, Step

#: Steps named in `step` and `waiting_for` before the rest is counted.
_SHOWN = 5
_WIDTH = 600
#: Most sagas have none: they share this one.
_NO_ATTRIBUTES: Mapping[str, Any] = {}


def row_of(state: SagaState, wake_at: int | None) -> SagaRow:
    """The row of a saga in this state, to be looked at again at `wake_at` (microseconds)."""
    current, count = _current(state)
    step = _listed([step.name for step in current], count)
    error = state.error or state.trouble
    # Whatever goes wrong once the undo has begun is not what began it.
    undo_error = (state.blocked if state.undoing else None) or state.undo_error
    return SagaRow(
        id=state.id,
        definition=state.definition,
        version=state.version,
        status=state.status,
        attention=state.attention,
        step=step,
        waiting_for=None if state.ended else _waiting_for(state, current, step),
        input=bytes(state.started_with),
        result=None if state.result is None else bytes(state.result),
        error_class=error.class_name or error.kind if error else None,
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        undo_error_code=undo_error.code if undo_error else None,
        undo_error_message=undo_error.message if undo_error else None,
        attempt=max([step.undo.attempt if state.undoing else step.attempt for step in current], default=0),
        started_at=from_micros(state.started_at),
        updated_at=from_micros(state.updated_at),
        ended_at=None if state.ended_at is None else from_micros(state.ended_at),
        deadline_at=_moment(state.promised),
        expected_at=_moment(state.expected_at) if state.expected else None,
        wake_at=None if wake_at is None else from_micros(wake_at),
        revision=state.revision,
        undriven=state.undriven,
        attributes={name: msgspec.json.decode(value) for name, value in state.attributes.items()}
        if state.attributes
        else _NO_ATTRIBUTES,
        run=state.run,
        first_seq=state.first_seq,
        coordinator=state.coordinator,
    )


def _moment(micros: int) -> datetime | None:
    return None if micros >= NEVER else from_micros(micros)


def _current(state: SagaState) -> tuple[list[Step], int]:
    """The steps that the saga is at, as far as they are shown, and how many: those open, else those being undone.

    A row is written at every transition: its cost must not depend on how many steps are open.
    """
    if state.ended:
        return [], 0
    steps = (state.undos or state.open_steps) if state.undoing else (state.open_steps or state.undos)
    return list(islice(steps.values(), _SHOWN)), len(steps)


def _listed(names: Sequence[str], count: int) -> str | None:
    """At most `_SHOWN` of `count` names, and how many there are besides."""
    shown = names[0] if len(names) == 1 else ", ".join(names)
    if count > _SHOWN:
        shown += f" +{count - _SHOWN} more"
    return shown[:_WIDTH] or None


def _waiting_for(state: SagaState, current: list[Step], listed: str | None) -> str | None:
    if state.blocked is not None:
        return f"a person: {blocked_by(state.blocked)}"
    if state.undriven:
        return f"a coordinator that has {state.definition} version {state.version}"
    if state.troubled:
        shown = islice(state.troubled.items(), _SHOWN)
        troubled = _listed([f"{name} is {why}" for name, why in shown], len(state.troubled))
        return f"a person: {troubled}"[:_WIDTH]
    if state.parked is not None:
        return "a person: the saga failed after its pivot"
    if state.held is not None:
        return "the breaker: too many sagas of this type are being undone"
    waits: list[str] = []
    unfit = None
    for step in current:
        if step.mismatched or step.undo.mismatched:
            unfit = step
            break
    if unfit is not None:
        error = unfit.error if unfit.mismatched else unfit.undo.error
        waits.append(f"a worker to which {unfit.name} fits ({error.code if error else 'mismatch'})")
    elif current:
        waits.append(f"the {'reply' if current[0].undo.status == 'none' else 'undo'} of {listed}")
    if state.receives:
        waits.extend(f"signal {name}" for name in dict.fromkeys(state.receives.values()))
    if state.timers and not waits:
        waits.append("a timer")
    return " or ".join(waits)[:_WIDTH] or None
