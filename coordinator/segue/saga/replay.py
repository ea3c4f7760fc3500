"""Bringing a saga back from its history: fold the events, and tell its code again what it was told before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from segue.errors import InputError
from segue.saga import events as e
from segue.saga.definition import Converter, SagaDefinition
from segue.saga.failures import Nondeterminism
from segue.saga.fold import apply, end_transition
from segue.saga.program import CodeFailed, Program, Request, SignalUnfit
from segue.saga.runs import begins_run
from segue.saga.state import SagaState
from segue.saga.turn import Instance

#: Events that the code asked for; the replay must ask for the same ones in the same order.
_REQUESTS = frozenset(
    (
        e.StepScheduled,
        e.StepAbandoned,
        e.TimerStarted,
        e.TimerCancelled,
        e.ReceiveStarted,
        e.ReceiveCancelled,
        e.AttributeSet,
        e.PivotPassed,
        e.UndoRequested,
    )
)
#: After these the saga's code is not needed any more.
_ENDS = frozenset((e.StopRequested, e.ProgramReturned, e.RunEnded, e.SagaParked))


def rebuild(
    saga_id: str,
    transitions: Sequence[tuple[int, bytes]],
    definition: SagaDefinition[Any, Any] | None,
    converter: Converter,
    *,
    exact: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Instance:
    """The instance after these transitions ((microseconds, payload) by `seq`).

    Those of earlier runs are passed over. Without a definition, or where the code is not needed any more, it has no
    program. Raises Nondeterminism if the code asks for something else than the history holds; the caller rebuilds
    without a definition and records the block.
    Inputs are compared as values of today's types, so that a new field with a default makes no difference; where the
    history is older than that rule, `warn` is told. `exact`: payloads and policies must be the same, too, byte by byte,
    as tests of unchanged code demand.
    """
    transitions = of_last_run(transitions)
    state = SagaState(saga_id)
    replay = None if definition is None else _Replay(saga_id, definition, converter, exact=exact, warn=warn)
    for at, payload in transitions:
        for event in e.decode_events(payload):
            if replay is not None:
                if _ends_code(event):
                    replay.program.close()
                    replay = None
                else:
                    replay.before(state, event, at)
            apply(state, event, at)
        if replay is not None:
            replay.end_of_transition(state, at)
        end_transition(state, at)
    return Instance(state, replay.program if replay is not None else None)


def of_last_run(transitions: Sequence[tuple[int, bytes]]) -> Sequence[tuple[int, bytes]]:
    """The transitions of the newest run among these."""
    for n in range(len(transitions) - 1, 0, -1):
        if begins_run(transitions[n][1]):
            return transitions[n:]
    return transitions


def _ends_code(event: e.AnyEvent) -> bool:
    """The saga's code is not needed after this one."""
    return type(event) in _ENDS or (type(event) is e.StopHeld and event.cause != "deadline")


class _Replay:
    __slots__ = ("asked", "converter", "exact", "program", "recorded", "types", "warn")

    def __init__(
        self,
        saga_id: str,
        definition: SagaDefinition[Any, Any],
        converter: Converter,
        *,
        exact: bool,
        warn: Callable[[str], None] | None,
    ) -> None:
        self.exact = exact
        self.warn = warn
        self.converter = converter
        self.types: dict[str, Any] = {}
        self.program = Program(definition, saga_id, converter, b"null", types=self.types)
        self.asked: deque[Request] = deque()
        self.recorded: deque[e.AnyEvent] = deque()

    def before(self, state: SagaState, event: e.AnyEvent, at: int) -> None:
        """Called before `event` is folded into `state`."""
        if type(event) in _REQUESTS:
            self.recorded.append(event)
        elif type(event) is e.Started:
            self.program.input, self.program.rules = bytes(event.input), event.rules
        elif type(event) is e.Continued:
            self.program.input, self.program.run = bytes(event.input), event.run
            self.program.rules = event.rules
        elif type(event) is e.Undriven:
            while len(state.deliveries) > event.pending:
                self.tell(state, at)

    def end_of_transition(self, state: SagaState, at: int) -> None:
        if not state.undriven:
            while state.deliveries:
                self.tell(state, at)
        self.compare(strict=not state.undriven)

    def tell(self, state: SagaState, at: int) -> None:
        self.program.replaying = True
        try:
            self.asked.extend(self.program.deliver(state.deliveries.pop(0), at))
        except (CodeFailed, SignalUnfit) as failed:
            raise Nondeterminism(f"the code fails where it went on before: {failed.failure.message}") from failed
        self.program.replaying = False

    def compare(self, *, strict: bool) -> None:
        while self.asked and self.recorded:
            asked, recorded = self.asked.popleft(), _brief(self.recorded.popleft())
            if not _same(asked, recorded):
                raise Nondeterminism(f"the history has {_shown(recorded)}, the code asks for {_shown(asked)}")
            if self.exact and asked != recorded:
                raise Nondeterminism(f"{_shown(recorded)}: {_difference(recorded, asked)}")
            self.compare_values(asked, recorded)
        if self.recorded and strict:
            raise Nondeterminism(f"the history has {_shown(self.recorded[0])}, the code does not ask for it")
        if self.asked:
            raise Nondeterminism(f"the code asks for {_shown(self.asked[0])}, which the history does not have")

    def compare_values(self, asked: Request, recorded: e.AnyEvent) -> None:
        """The input of a step, or the value of an attribute: the same, or equal once both are of today's type."""
        match asked, recorded:
            case e.StepScheduled(), e.StepScheduled():
                now, before, of = asked.input, recorded.input, asked.activity or asked.step
            case e.AttributeSet(), e.AttributeSet():
                now, before, of = asked.value, recorded.value, f"@{asked.name}"
            case _:
                return
        if now == before or self.equal(bytes(now), bytes(before), self.types.get(of, Any)):
            return
        difference = (
            f"{_shown(recorded)} is asked for with another value than the history has; iterating over a set, the clock "
            "and random numbers do that, and so does code that has changed"
        )
        if self.program.rules >= 2:
            raise Nondeterminism(difference)
        if self.warn is not None:
            self.warn(difference)

    def equal(self, now: bytes, before: bytes, type: Any) -> bool:
        try:
            return self.converter.to_bytes(self.converter.from_bytes(before, type), type) == now
        except InputError:
            return False


def _brief(recorded: e.AnyEvent) -> e.AnyEvent:
    """As the code asks for it: without what was decided about it, and as it is recorded today.

    The activity of a step that has its name was not left out before.
    """
    if isinstance(recorded, e.ReceiveCancelled) and recorded.returned:
        return replace(recorded, returned=False)
    if isinstance(recorded, e.StepScheduled) and recorded.activity == recorded.step:
        return replace(recorded, activity="")
    return recorded


def _same(asked: Request, recorded: e.AnyEvent) -> bool:
    """Whether the code asks for what was recorded, whatever values and policies it gives it."""
    if type(asked) is not type(recorded):
        return False
    if isinstance(asked, e.StepScheduled) and isinstance(recorded, e.StepScheduled):
        return (asked.step, asked.activity, asked.compensate) == (recorded.step, recorded.activity, recorded.compensate)
    if isinstance(asked, e.StepAbandoned) and isinstance(recorded, e.StepAbandoned):
        return asked.step == recorded.step
    if isinstance(asked, e.UndoRequested) and isinstance(recorded, e.UndoRequested):
        return (asked.n, asked.steps) == (recorded.n, recorded.steps)
    if isinstance(asked, e.ReceiveStarted) and isinstance(recorded, e.ReceiveStarted):
        return (asked.n, asked.signal) == (recorded.n, recorded.signal)
    if isinstance(asked, e.AttributeSet) and isinstance(recorded, e.AttributeSet):
        return asked.name == recorded.name
    return getattr(asked, "n", None) == getattr(recorded, "n", None)


def _difference(recorded: e.AnyEvent, asked: Request) -> str:
    """The first field in which two events of the same kind differ."""
    for name in recorded.__struct_fields__:
        before, now = getattr(recorded, name), getattr(asked, name)
        if before != now:
            return f"the history has {name}={_plain(before)}, the code asks for {name}={_plain(now)}"
    return "the same"


def _plain(value: Any) -> str:
    return bytes(value).decode()[:200] if isinstance(value, msgspec.Raw) else f"{value!r:.200}"


def _shown(event: e.AnyEvent | Request) -> str:
    shown = e.describe(event)
    subject = shown.get("step") or shown.get("signal") or shown.get("name") or shown.get("n") or ""
    activity = f" ({shown['activity']})" if "activity" in shown and shown["activity"] != subject else ""
    return f"{shown['type']} {subject}{activity}".strip()
