"""All decisions of the engine: what a saga does about what happens to it. No I/O, no clock, no randomness.

`advance` folds new events into the instance's state as it decides them and returns them. The instance is a cache: if
the transaction that stores the events does not commit, it must be thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
from msgspec.structs import replace

from segue.limits import DEFAULT_LIMITS, Limits
from segue.observe import traceback_of
from segue.saga import events as e
from segue.saga.alarms import Alarms
from segue.saga.definition import Converter, SagaDefinition, deadline_micros
from segue.saga.effects import Effect, Ignored, Moved, SendCommand
from segue.saga.inputs import Cancel, Input, Reply, ResolveStep, RetryStep, SignalArrived, SkipStep, Wake
from segue.saga.people import People
from segue.saga.program import Program
from segue.saga.replies import Replies
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, micros
from segue.saga.runs import continued
from segue.saga.state import SagaState
from segue.saga.turn import Instance


def start(
    saga_id: str,
    definition: SagaDefinition[Any, Any],
    converter: Converter,
    *,
    coordinator: str,
    input: bytes,
    asked: str = "",
    now: int,
    trace: tuple[tuple[str, str], ...] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Instance, Moved]:
    """A new saga and its first transition. `asked`: a digest of the start's own bytes, where `input` is not those."""
    instance = Instance(SagaState(saga_id), Program(definition, saga_id, converter, input))
    turn = _Turn(instance, now, limits)
    compensation = definition.compensation
    turn.record(
        e.Started(
            coordinator=coordinator,
            definition=definition.name,
            version=definition.version,
            input=msgspec.Raw(input),
            asked=asked,
            deadline=deadline_micros(definition, now),
            compensation=None if compensation == DEFAULT_COMPENSATION_RETRY else compensation,
            compensation_timeout=micros(definition.compensation_timeout),
            trace=trace,
            rules=e.RULES,
            deadline_runs=not definition.deadline_waits,
        )
    )
    turn.drive()
    return instance, turn.close()


def advance(
    instance: Instance,
    happened: Input,
    now: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    held_until: int | None = None,
) -> Moved | Ignored:
    """Move the saga on by one input at `now` (microseconds since 1970, the database's clock).

    `held_until`: the breaker is open; an undo that no person asked for waits until then.
    """
    if instance.state.ended:
        return Ignored("ended", f"the saga is {instance.state.status}")
    turn = _Turn(instance, now, limits, held_until)
    if instance.state.undriven and instance.state.blocked is None and instance.program is not None:
        turn.redrive()
    match happened:
        case Reply():
            ignored = turn.reply(happened)
        case SignalArrived():
            ignored = turn.signal(happened)
        case Cancel():
            ignored = turn.cancel(happened)
        case Wake():
            ignored = turn.wake(happened)
        case RetryStep():
            ignored = turn.retry_by_person(happened)
        case SkipStep():
            ignored = turn.skip(happened)
        case ResolveStep():
            ignored = turn.resolve(happened)
        case _:
            assert_never(happened)
    if ignored is not None and not turn.events:
        return replace(ignored, effects=turn.effects) if turn.effects else ignored
    turn.drive()
    return turn.close()


def block(
    instance: Instance,
    failure: e.Failure,
    now: int,
    *,
    raised: BaseException | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Moved:
    """The code does not fit the saga's history: it is told nothing more until a person retries with code that fits.

    `raised`: what says so, for the log; its traceback is told.
    """
    turn = _Turn(instance, now, limits)
    turn.drop_program()
    turn.raised = () if raised is None else traceback_of(raised, messages=False)
    turn.record(e.Undriven(pending=len(instance.state.deliveries), error=failure))
    return turn.close()


def go_on(
    instance: Instance,
    definition: SagaDefinition[Any, Any] | None,
    converter: Converter,
    now: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Moved:
    """The first transition of the next run, where `state.run_is_over`; in the transaction that ended the last one.

    `definition`: what it runs; None if that is not here. The new run may be over at once, too: call it till it is not.
    """
    turn = _Turn(instance, now, limits)
    turn.drop_program()
    event = continued(instance.state, definition)
    instance.plans = None
    turn.record(event)
    if definition is not None:
        instance.program = Program(definition, instance.state.id, converter, bytes(event.input), run=event.run)
    turn.drive()
    return turn.close()


class _Turn(Replies, Alarms, People):
    """Everything that can happen to a saga."""

    __slots__ = ()


def commands_of(effects: Sequence[Effect]) -> list[SendCommand]:
    """The commands among the effects."""
    return [effect for effect in effects if isinstance(effect, SendCommand)]
