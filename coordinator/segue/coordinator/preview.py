"""What an operator's action would do to a saga: the engine itself, run on a copy that is thrown away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import msgspec

from segue.clock import to_micros
from segue.coordinator.sentences import sentence
from segue.coordinator.store import EventRow
from segue.errors import DecodeError, InputError
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import Cancel, Input, ResolveStep, RetryStep, SkipStep
from segue.saga.state import fold
from segue.saga.transition import Instance, advance


def preview(saga_id: str, history: Sequence[EventRow], request: Input, now: datetime) -> tuple[bool, list[str]]:
    """(whether it would be accepted, what would happen at once: a sentence each, or why not).

    What the saga's own code does next is not foretold: it does not run here.
    """
    try:
        state = fold(saga_id, ((to_micros(row.at), row.payload) for row in history))
    except DecodeError as error:
        return False, [str(error)]
    if state.blocked is not None and isinstance(request, RetryStep) and request.step is None:
        return True, ["the saga's code is tried again by a coordinator that has it"]
    moved = advance(Instance(state), request, to_micros(now))
    if isinstance(moved, Ignored):
        return False, [f"{moved.reason}: {moved.detail}" if moved.detail else moved.reason]
    return True, [sentence(event) for event in moved.events if not isinstance(event, e.Undriven)]


def input_of(
    kind: Literal["retry", "skip", "resolve", "cancel"], arguments: Mapping[str, Any], actor: str, reason: str
) -> Input:
    """The engine's input for an operator request with these arguments. Raises InputError."""
    try:
        if kind == "retry":
            edited = _raw(arguments["input"]) if "input" in arguments else e.NOTHING
            return RetryStep(step=arguments.get("step"), edited=edited, actor=actor)
        if kind == "skip":
            return SkipStep(step=arguments["step"], reason=reason, actor=actor)
        if kind == "resolve":
            return ResolveStep(
                step=arguments["step"],
                outcome=cast("Literal['success', 'failure']", arguments["outcome"]),
                output=_raw(arguments.get("output")),
                code=arguments.get("code") or "resolved",
                reason=reason,
                actor=actor,
            )
        return Cancel(compensate=arguments.get("compensate", "all"), reason=reason, actor=actor)
    except KeyError as error:
        raise InputError(f"a {kind} request needs the argument {error.args[0]!r}") from None


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
