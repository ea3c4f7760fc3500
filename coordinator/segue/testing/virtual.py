"""One saga on a virtual clock, driven through the pure engine: no broker, no database, nothing waits.

Between any two transitions the saga is thrown away and brought back from its history, as a coordinator may do at any
moment. Code that then asks for anything else than before fails the test, with the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from segue.clock import from_micros
from segue.contract import Attribute
from segue.ids import CommandId
from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.effects import DropSignal, Ignored, Moved, SendCommand
from segue.saga.failures import Nondeterminism
from segue.saga.inputs import Input, Reply
from segue.saga.replay import rebuild
from segue.saga.state import SagaState
from segue.saga.steps import Step
from segue.saga.transition import advance, commands_of, go_on, start
from segue.saga.turn import wake_at
from segue.testing.contracts import Contracts, saga_of
from segue.testing.failures import NeverEnds, NondeterministicSaga
from segue.testing.kept import KeptSigns
from segue.testing.reseeded import compare
from segue.topics.converter import Converter

T = TypeVar("T")

COORDINATOR = "test"
#: When tests begin, if they do not say: 2023-11-14T22:13:20Z in microseconds.
START = 1_700_000_000_000_000
#: Transitions after which a test is stopped.
MAX_TRANSITIONS = 20_000
#: Virtual time after which a test is stopped.
MAX_TIME = timedelta(days=3660)
#: So many events may be replayed in all, and so many more for each event that is new: short sagas are replayed after
#: every transition, long ones (of which one replay costs thousands) now and then, so that tests stay linear. A replay
#: costs what it makes, too: the tasks of a map are all made by the saga's first event.
_REPLAYED, _REPLAYED_PER_EVENT = 5_000, 3


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the conversation between the saga and everybody else, at `at` microseconds."""

    at: int
    text: str


class VirtualSaga:
    """A saga, its history and its clock (`now`, microseconds). `wake_at`: when it wants to be woken."""

    def __init__(
        self,
        definition: SagaDefinition[Any, Any],
        contracts: Contracts,
        *,
        saga_id: str = "saga-1",
        started_at: int = START,
        evict: bool = True,
    ) -> None:
        self.contracts = contracts
        self.definition = contracts.observed(saga_of(definition))
        self.converter = Converter()
        self.saga_id = saga_id
        self.started_at = self.now = started_at
        self.evict = evict
        self.rows: list[tuple[int, bytes]] = []
        self.ignored: list[Ignored] = []
        #: Signals that the code will never be told.
        self.dropped: list[DropSignal] = []
        self.lines: list[Line] = []
        self.wake_at: int | None = None
        self._replayed = 0
        #: What earlier runs have left: their steps, and what their commands were for.
        self._steps: dict[str, Step] = {}
        self._commands: dict[CommandId, tuple[str, e.Action, int]] = {}
        self._kept = KeptSigns()
        #: Why it was not brought back under other hash seeds; empty if it was.
        self.elsewhere = ""

    # --- what happens

    def begin(self, value: Any) -> list[SendCommand]:
        """Start it with this input (checked against the saga's type); the first commands."""
        data = self.converter.to_bytes(value, self.definition.input_type)
        self.say(f"{self.definition.name} v{self.definition.version} starts with {preview(data)}")
        self.instance, moved = start(
            self.saga_id, self.definition, self.converter, coordinator=COORDINATOR, input=data, now=self.now
        )
        return self._stored(moved)

    def happen(self, happened: Input) -> list[SendCommand]:
        """Move on by one input now; the commands that it causes. What changes nothing is noted in `ignored`."""
        moved = advance(self.instance, self._kept.with_signs(self.state, happened), self.now)
        self._kept.keep(moved.effects)
        if isinstance(moved, Ignored):
            self.ignored.append(moved)
            self.wake_at = wake_at(self.state)
            return []
        commands = self._stored(moved)
        while self.state.run_is_over:
            self._steps.update(self.state.steps)
            self._commands.update(self.state.commands)
            commands += self._stored(go_on(self.instance, self.definition, self.converter, self.now))
        return commands

    def happen_again(self, happened: Input) -> list[SendCommand]:
        """The coordinator dies before it has stored what it decided, and another one is told the same."""
        blocked = self.state.blocked is not None
        first = advance(self.instance, self._kept.with_signs(self.state, happened), self.now)
        self.replay(blocked=blocked)
        before = len(self.rows)
        commands = self.happen(happened)
        second = self.rows[before][1] if len(self.rows) > before else None
        if second != (None if isinstance(first, Ignored) else e.encode_events(first.events)):
            raise NondeterministicSaga("told the same again after a crash, the saga went on differently" + self.story())
        return commands

    def replay(self, *, blocked: bool) -> None:
        """Throw the instance away and bring it back from the history. Raises NondeterministicSaga.

        `blocked`: the history ends with a block, and code that fails is not asked again.
        """
        if self.instance.program is not None:
            self.instance.program.close()
        definition = None if blocked else self.definition
        try:
            self.instance = rebuild(self.saga_id, self.rows, definition, self.converter, exact=True)
        except Nondeterminism as difference:
            raise NondeterministicSaga(
                f"the saga's code is not deterministic; brought back from its history it does something else:\n"
                f"  {difference}\n"
                f"Time, ids and random numbers must come from s.now(), s.uuid() and s.random, everything else from "
                f"activities." + self.story()
            ) from None

    def replay_elsewhere(self, definition: SagaDefinition[Any, Any]) -> None:
        """Bring it back in processes with other hash seeds; `definition` as its module has it.

        Raises NondeterministicSaga. Where that can't be done the conversation ends with why.
        """
        if self.state.blocked is not None:
            return  # code that fails is not asked again
        compared = compare(definition, self.saga_id, self.rows)
        if compared.difference:
            raise NondeterministicSaga(
                f"the saga's code is not deterministic; brought back from its history in a process with another hash "
                f"seed it does something else:\n  {compared.difference}\n"
                f"It goes over a set, whose order is another one in each process: use sorted(…)" + self.story()
            )
        if compared.unreachable:
            self.elsewhere = compared.unreachable

    def _stored(self, moved: Moved) -> list[SendCommand]:
        self.rows.append((self.state.updated_at, e.encode_events(moved.events)))
        self.wake_at = moved.wake_at
        for event in moved.events:
            if (text := _told(event)) is not None:
                self.say(text)
        if len(self.rows) > MAX_TRANSITIONS:
            raise NeverEnds(
                f"the saga has made {MAX_TRANSITIONS} transitions and goes on; one that is meant to is told when to "
                f"stop: until=days(90)" + self.story()
            )
        if self.now - self.started_at > MAX_TIME // timedelta(microseconds=1):
            raise NeverEnds(
                f"{MAX_TIME.days} days of virtual time have passed and the saga goes on; one that is meant to is told "
                f"when to stop: until=days(90)" + self.story()
            )
        count = self.state.count
        cost = count if self.instance.program is None else max(count, self.instance.program.loop.tasks_made)
        if self.evict and self._replayed + cost <= _REPLAYED + _REPLAYED_PER_EVENT * count:
            self._replayed += cost
            self.replay(blocked=self.state.blocked is not None)
        self.dropped += [effect for effect in moved.effects if isinstance(effect, DropSignal)]
        return commands_of(moved.effects)

    # --- what can be seen

    @property
    def state(self) -> SagaState:
        return self.instance.state

    @property
    def steps(self) -> dict[str, Step]:
        """The steps of all its runs."""
        return {**self._steps, **self.state.steps}

    def command(self, command_id: CommandId) -> tuple[str, e.Action, int]:
        """Step, action and attempt of a command that it has sent, in whichever run."""
        return self.state.commands.get(command_id) or self._commands[command_id]

    @property
    def elapsed(self) -> timedelta:
        return timedelta(microseconds=self.now - self.started_at)

    @property
    def events(self) -> list[tuple[int, e.AnyEvent]]:
        """(microseconds, event) in their order."""
        return [(at, event) for at, payload in self.rows for event in e.decode_events(payload)]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What must come from outside: open steps and signals."""
        state = self.state
        steps = [f"{step.name} ({step.status})" for step in state.open_steps.values()]
        undos = [
            f"undo of {step.name} ({step.undo.status})"
            for step in state.steps.values()
            if step.undo.status in ("issued", "waiting", "deferred")
        ]
        return (*steps, *undos, *(f"signal {name}" for name in state.receives.values()))

    def attribute(self, attribute: Attribute[T]) -> T | None:
        """The attribute's value, None where the saga has not set it."""
        data = self.state.attributes.get(attribute.name)
        return None if data is None else self.converter.from_bytes(bytes(data), attribute.type)

    def say(self, text: str) -> None:
        self.lines.append(Line(self.now, text))

    def story(self) -> str:
        """The conversation so far, as the end of an error's message."""
        lines = [f"  {clock(line.at - self.started_at):>10}  {line.text}" for line in _shortened(self.lines)]
        seeds = [f"  not replayed under other hash seeds: {self.elsewhere}"] if self.elsewhere else []
        return "\n" + "\n".join(["the conversation so far:", *lines, f"  now: {self.situation()}", *seeds])

    def situation(self) -> str:
        """Where it is, in one line."""
        if not self.rows:
            return "not started"
        state = self.state
        parts = [state.status + (f", attention: {state.attention}" if state.attention != "none" else "")]
        failure = state.blocked or state.parked or state.error
        if failure is not None:
            parts.append(describe_failure(failure))
        if self.waiting_for:
            parts.append("waits for " + ", ".join(self.waiting_for))
        if state.timers and not state.ended:
            parts.append(f"sleeps until {from_micros(min(state.timers.values())):%Y-%m-%dT%H:%M:%SZ}")
        return "; ".join(parts)


def describe_failure(failure: e.Failure) -> str:
    """`no_courier: nobody is free`."""
    return f"{failure.code}: {failure.message}" if failure.message else failure.code


def describe_command(command: SendCommand) -> str:
    """`payments.charge {"id":"o-1"}`, with the step and the attempt where they say more."""
    step = f" of {command.step}" if command.action == "compensate" or command.step != command.activity else ""
    attempt = f" (attempt {command.attempt})" if command.attempt > 1 else ""
    return f"{command.activity}{step}{attempt} {preview(command.body)}"


def describe_reply(command: SendCommand, reply: Reply) -> str:
    """`payments.charge answers success {"charge_id":"ch-1"}`."""
    code = f" {reply.error}" if reply.error else ""
    body = "" if bytes(reply.body) == b"null" else f" {preview(bytes(reply.body))}"
    return f"← {command.activity} answers {reply.outcome}{code}{body}"


def preview(data: bytes, length: int = 120) -> str:
    """The beginning of a payload."""
    text = data.decode("utf-8", "replace")
    return text if len(text) <= length else text[: length - 1] + "…"


def clock(micros: int) -> str:
    """Time since the start, `0:05:00` or `1 day, 0:00:00`; fractions where there are any."""
    return str(timedelta(microseconds=micros)).removesuffix("000")


def raw(data: bytes) -> msgspec.Raw:
    """Encoded JSON, as the engine takes it."""
    return msgspec.Raw(data)


def _told(event: e.AnyEvent) -> str | None:
    """What the conversation tells of an event; commands, replies and signals are told where they happen."""
    match event:
        case e.StopRequested():
            text = f"the undo starts: {describe_failure(event.error)}"
        case e.Undriven() if event.error is not None:
            text = f"blocked: {describe_failure(event.error)}"
        case e.StepUnknown() | e.StepParked() | e.StepInDoubt() | e.StepSkipped() | e.UndoDeferred() | e.StepFailed():
            text = f"{event.step} {_SPENT[type(event)]}: {describe_failure(event.error)}"
        case e.StepAbandoned():
            text = f"{event.step} abandoned by the saga's code"
        case e.SignalRejected():
            text = f"a dead letter, and the code is not told of it: {event.error.message}"
        case e.SagaParked():
            text = f"parked: {describe_failure(event.error)}"
        case e.PivotPassed():
            text = "the pivot is passed"
        case e.TimerFired():
            text = f"timer {event.n} fires"
        case e.Continued():
            text = f"run {event.run} begins with {preview(bytes(event.input))}"
        case e.Ended():
            text = event.status
        case _:
            return None
    return f"! {text}"


_SPENT: dict[type[e.Event], str] = {
    e.StepUnknown: "unknown",
    e.StepParked: "parked",
    e.StepInDoubt: "in doubt",
    e.StepSkipped: "skipped",
    e.StepFailed: "failed",
    e.UndoDeferred: "undo deferred",
}


def _shortened(lines: Sequence[Line], longest: int = 60) -> list[Line]:
    if len(lines) <= longest:
        return list(lines)
    head, tail = longest // 3, longest - longest // 3
    gap = Line(lines[head].at, f"… {len(lines) - longest} more …")
    return [*lines[:head], gap, *lines[-tail:]]
