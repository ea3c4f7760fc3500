"""Bringing a saga back from its history: fold the events, and tell its code again what it was told before."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from segue.saga import events as e
from segue.saga.definition import Converter, SagaDefinition
from segue.saga.failures import Nondeterminism
from segue.saga.fold import apply, end_transition
from segue.saga.program import CodeFailed, Program, Request
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
) -> Instance:
    """The instance after these transitions ((microseconds, payload) by `seq`).

    Those of earlier runs are passed over. Without a definition, or where the code is not needed any more, it has no
    program. Raises Nondeterminism if the code asks for something else than the history holds; the caller rebuilds
    without a definition and records the block.
    `exact`: payloads and policies must be the same, too, as tests of unchanged code demand.
    """
    transitions = of_last_run(transitions)
    state = SagaState(saga_id)
    replay = None if definition is None else _Replay(saga_id, definition, converter, exact=exact)
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
    __slots__ = ("asked", "exact", "program", "recorded")

    def __init__(
        self, saga_id: str, definition: SagaDefinition[Any, Any], converter: Converter, *, exact: bool
    ) -> None:
        self.exact = exact
        self.program = Program(definition, saga_id, converter, b"null")
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
        except CodeFailed as failed:
            raise Nondeterminism(f"the code fails where it went on before: {failed.failure.message}") from failed
        self.program.replaying = False

    def compare(self, *, strict: bool) -> None:
        while self.asked and self.recorded:
            asked, recorded = self.asked.popleft(), _brief(self.recorded.popleft())
            if not _same(asked, recorded):
                raise Nondeterminism(f"the history has {_shown(recorded)}, the code asks for {_shown(asked)}")
            if self.exact and asked != recorded:
                raise Nondeterminism(f"{_shown(recorded)}: {_difference(recorded, asked)}")
        if self.recorded and strict:
            raise Nondeterminism(f"the history has {_shown(self.recorded[0])}, the code does not ask for it")
        if self.asked:
            raise Nondeterminism(f"the code asks for {_shown(self.asked[0])}, which the history does not have")


def _brief(recorded: e.AnyEvent) -> e.AnyEvent:
    """As it is recorded today: the activity of a step that has its name was not left out before."""
    if isinstance(recorded, e.StepScheduled) and recorded.activity == recorded.step:
        return replace(recorded, activity="")
    return recorded


def _same(asked: Request, recorded: e.AnyEvent) -> bool:
    """Whether the code asks for what was recorded. Payloads and policies may change; what is done may not."""
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
