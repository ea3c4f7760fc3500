"""What lasts from one run of a saga to the next: `continue_as_new`."""

from __future__ import annotations

import re
from typing import Any

from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, micros
from segue.saga.state import SagaState
from segue.saga.steps import NEVER

_BEGINS = re.compile(rb'\s*\[\s*\{\s*"e"\s*:\s*"continued"')


def continued(state: SagaState, definition: SagaDefinition[Any, Any] | None) -> e.Continued:
    """The beginning of the next run of a saga whose last run is over; without a definition it stays what it is."""
    assert state.next is not None
    assert state.run_is_over
    compensation, compensation_timeout, version = state.compensation, state.compensation_timeout, state.version
    if definition is not None:
        compensation, version = definition.compensation, definition.version
        compensation_timeout = micros(definition.compensation_timeout)
    same = bytes(state.started_with) == bytes(state.next.input)
    return e.Continued(
        run=state.run + 1,
        transitions=state.revision,
        previous=state.first_seq,
        coordinator=state.coordinator,
        definition=state.definition,
        version=version,
        input=state.next.input,
        started_at=state.started_at,
        started_with=e.NOTHING if same else state.started_with,
        asked=state.asked,
        deadline=state.deadline if state.deadline < NEVER else None,
        deadline_missed=state.deadline_missed,
        promised=state.promised if state.promised != state.deadline else None,
        deadline_runs=state.deadline_runs if definition is None else not definition.deadline_waits,
        compensation=None if compensation == DEFAULT_COMPENSATION_RETRY else compensation,
        compensation_timeout=compensation_timeout,
        trace=state.trace,
        rules=e.RULES,
        attributes=dict(state.attributes),
        signals={name: [signal.payload for signal in waiting] for name, waiting in state.signals.items() if waiting},
        signal_sources={
            name: [(signal.id, signal.sender, signal.origin) for signal in waiting]
            for name, waiting in state.signals.items()
            if waiting
        },
    )


def coordinator_of(payload: bytes) -> str:
    """Whose a saga is, told from the first transition of one of its runs."""
    first = e.decode_events(payload)[0]
    assert isinstance(first, e.Started | e.Continued)
    return first.coordinator


def begins_run(payload: bytes) -> bool:
    """Whether this transition is the first one of a later run; told without decoding it."""
    return _BEGINS.match(payload) is not None
