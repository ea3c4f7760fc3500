"""`SagaTest`: a whole saga in one test, with mocked activities and a clock that skips by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Generic, Literal, TypeVar, cast, overload

from segue.clock import to_micros
from segue.contract import Activity, Signal
from segue.saga.definition import SagaDefinition
from segue.saga.effects import SendCommand
from segue.saga.inputs import Cancel, Input, Reply, ResolveStep, RetryStep, SignalArrived, SkipStep, Wake
from segue.saga.retry import micros
from segue.testing.answers import (
    MISMATCH,
    Answer,
    Mismatch,
    Silence,
    answer_of_exception,
    call,
    mismatch,
    negative,
    success,
)
from segue.testing.contracts import AnyActivity, Contracts, activity_of, saga_of
from segue.testing.failures import NotMocked, SagaBlocked, SagaTestError
from segue.testing.lines import SLOTS, Lines
from segue.testing.outcome import Outcome, outcome_of
from segue.testing.virtual import START, VirtualSaga, describe_command, describe_reply, preview, raw
from segue.topics.converter import Converter

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

ZERO = timedelta(0)


@dataclass(slots=True)
class _Mock:
    """How one activity answers; `effects` is what is returned, raised or called, one after the other or for ever."""

    activity: AnyActivity
    effects: Sequence[Any]
    once_each: bool
    delay: int
    taken: int = 0

    def next(self) -> Any:
        if self.once_each and self.taken >= len(self.effects):
            name, given = self.activity.name, len(self.effects)
            raise NotMocked(f"{name} is called {self.taken + 1} times, but the test gives it {given} side_effects")
        effect = self.effects[self.taken if self.once_each else 0]
        self.taken += 1
        return effect


class SagaTest(Generic[I, O]):
    """One saga under test: `t = SagaTest(order_saga); t.mock(charge, returns=…); outcome = t.run(ORDER)`.

    Time is virtual and skips to whatever comes next. An activity that is not mocked fails the test by name;
    compensations succeed unless they are mocked. Between any two transitions the saga is brought back from its history,
    and at the end in processes with other hash seeds, as far as they can import its module; the test fails if its code
    is not deterministic. Each service has one worker, which handles `slots` commands at
    once and those of one key one after the other; how long each takes is its mock's `delay`.
    """

    def __init__(
        self,
        definition: SagaDefinition[I, O],
        *,
        id: str = "saga-1",
        start: datetime | None = None,
        slots: int = SLOTS,
    ) -> None:
        self._definition = saga_of(definition)
        Lines(slots)
        self._slots = slots
        self._id = id
        self._start = START if start is None else to_micros(start)
        self._converter = Converter()
        self._mocks: dict[str, _Mock] = {}
        self._script: list[tuple[int, Input, str]] = []
        self._run: _Run | None = None

    # --- what the participants do

    @overload
    def mock(
        self,
        activity: Activity[A, B],
        function: Callable[[A], B] | Callable[[A], Awaitable[B]],
        *,
        delay: timedelta = ZERO,
    ) -> None: ...
    @overload
    def mock(self, activity: Activity[A, B], *, returns: B, delay: timedelta = ZERO) -> None: ...
    @overload
    def mock(
        self, activity: Activity[A, B], *, raises: Exception | type[Exception], delay: timedelta = ZERO
    ) -> None: ...
    @overload
    def mock(self, activity: Activity[A, B], *, side_effects: Sequence[object], delay: timedelta = ZERO) -> None: ...
    @overload
    def mock(self, activity: Activity[A, B], *, retry: str, delay: timedelta = ZERO) -> None: ...
    @overload
    def mock(self, activity: Activity[A, B], *, silent: Literal[True]) -> None: ...
    @overload
    def mock(self, activity: Activity[A, B], *, mismatch: Literal[True], delay: timedelta = ZERO) -> None: ...
    def mock(self, activity: AnyActivity, *function: Any, delay: timedelta = ZERO, **how: Any) -> None:
        """Say how an activity (or a compensation) answers; the last word on an activity counts.

        A function, sync or async, gets the activity's input and returns its output. `returns` is an output; `raises` an
        exception: ActivityRejected or segue.activities.Rejected refuses, any other answers `retry`. `side_effects` are
        outputs, exceptions, SILENCE and MISMATCH for one attempt after the other. `retry="busy"` answers every attempt
        `retry` with that code, `silent=True` none of them; with `mismatch=True` each comes to a worker that lacks the
        activity. To handle a command takes `delay`, once its worker has begun with it. Outputs are checked here against
        the activity's type, those of functions when they answer (SagaTestError).
        """
        activity_of(activity)
        kinds = {"returns", "raises", "side_effects", "retry", "silent", "mismatch"}
        if len(function) + len(how) != 1 or not set(how) <= kinds:
            raise TypeError(f"mock {activity.name}: give a function or one of {', '.join(sorted(kinds))}")
        effects: Sequence[Any]
        match how:
            case {"returns": value}:
                success(value, activity, self._converter)
                effects = [value]
            case {"raises": error}:
                effects = [error]
            case {"side_effects": several}:
                effects = list(several)
                for effect in effects:
                    if not isinstance(effect, Exception | type | Silence | Mismatch):
                        success(effect, activity, self._converter)
            case {"retry": code}:
                effects = [negative("retry", code)]
            case {"silent": _}:
                effects = [Silence()]
            case {"mismatch": _}:
                effects = [MISMATCH]
            case _:
                effects = [_Function(function[0])]
        self._mocks[activity.name] = _Mock(activity, effects, "side_effects" in how, micros(delay))

    # --- what else happens

    def signal(self, signal: Signal[T], value: T, *, after: timedelta = ZERO) -> None:
        """A signal, `after` the start of the run."""
        data = self._converter.to_bytes(value, signal.type)
        self._at(after, SignalArrived(name=signal.name, payload=raw(data)), f"→ signal {signal.name} {preview(data)}")

    def cancel(
        self, *, after: timedelta = ZERO, compensate: str = "all", reason: str = "cancelled by the test"
    ) -> None:
        """A person cancels the saga; `compensate` is all, none, or `to:STEP`."""
        self._at(after, Cancel(compensate=compensate, reason=reason), f"→ cancel, compensate={compensate}")

    def retry_step(self, step: str | AnyActivity | None = None, *, after: timedelta) -> None:
        """A person tries again what is parked, in doubt, deferred or blocked then (all of it, or one step)."""
        name = step.name if isinstance(step, Activity) else step
        self._at(after, RetryStep(step=name), f"→ a person retries {name or 'all'}")

    def skip_step(self, step: str | AnyActivity, *, after: timedelta, reason: str = "skipped by the test") -> None:
        """A person goes on without a parked step, or leaves a deferred compensation undone."""
        name = step if isinstance(step, str) else step.name
        self._at(after, SkipStep(step=name, reason=reason), f"→ a person skips {name}")

    def resolve_step(
        self,
        step: str | Activity[A, B],
        outcome: Literal["success", "failure"],
        *,
        after: timedelta,
        output: B | None = None,
        reason: str = "resolved by the test",
    ) -> None:
        """A person knows what became of a step: it happened (with this output) or it did not."""
        name = step if isinstance(step, str) else step.name
        kind = None if isinstance(step, str) else step.output
        body = raw(self._converter.to_bytes(output, kind if output is not None else None))
        request = ResolveStep(step=name, outcome=outcome, output=body, reason=reason)
        self._at(after, request, f"→ a person resolves {name} as {outcome}")

    def _at(self, after: timedelta, happened: Input, told: str) -> None:
        self._script.append((micros(after), happened, told))

    # --- the run

    def run(self, input: I, *, until: timedelta | None = None, may_block: bool = False) -> Outcome[O]:
        """Play the saga until it ends, or until only a signal or a person could move it on, or for a time (`until`).

        Raises NotMocked, NondeterministicSaga, NeverEnds, and SagaBlocked unless it `may_block`: saga code that raises,
        say, a KeyError undoes nothing but waits for a fix. Each run begins anew, mocks included.
        """
        for mock in self._mocks.values():
            mock.taken = 0
        contracts = Contracts(mock.activity for mock in self._mocks.values())
        saga = VirtualSaga(self._definition, contracts, saga_id=self._id, started_at=self._start)
        self._run = run = _Run(saga, self._mocks, Lines(self._slots))
        for after, happened, told in self._script:
            run.later(saga.now + after, happened, told)
        run.play(input, None if until is None else saga.now + micros(until))
        if saga.state.attention == "blocked" and not may_block:
            raise SagaBlocked("the saga is blocked by a failure in its code" + saga.story())
        saga.replay_elsewhere(self._definition)
        return cast("Outcome[O]", outcome_of(saga))

    @property
    def called(self) -> list[AnyActivity]:
        """The activities that were called in the last run, one entry per step, in the order of the calls."""
        return self._of_last_run().called

    @property
    def compensated(self) -> list[AnyActivity]:
        """The compensations that were acknowledged in the last run, in their order."""
        return self._of_last_run().compensated

    def inputs(self, activity: Activity[A, Any]) -> list[A]:
        """What the activity was given in the last run, one entry per command that reached it."""
        return cast("list[A]", self._of_last_run().inputs.get(activity.name, []))

    def _of_last_run(self) -> _Run:
        if self._run is None:
            raise SagaTestError("the saga was not run yet")
        return self._run


@dataclass(frozen=True, slots=True)
class _Function:
    """A user's function, kept apart from outputs that happen to be callable."""

    function: Callable[[Any], Any]


class _Run:
    """One run: the queue of what is still to come."""

    def __init__(self, saga: VirtualSaga, mocks: dict[str, _Mock], lines: Lines) -> None:
        self.saga = saga
        self.mocks = mocks
        self.lines = lines
        self.queue: list[tuple[int, int, Input, str]] = []
        #: Commands that are being handled, by the number of their answer.
        self.handled: dict[int, SendCommand] = {}
        self.count = 0
        self.called: list[AnyActivity] = []
        self.compensated: list[AnyActivity] = []
        self.inputs: dict[str, list[Any]] = {}
        self.answered: set[str] = set()

    def later(self, at: int, happened: Input, told: str) -> int:
        self.count += 1
        heappush(self.queue, (at, self.count, happened, told))
        return self.count

    def play(self, value: Any, until: int | None) -> None:
        saga = self.saga
        self._receive(saga.begin(value))
        while not saga.state.ended:
            at = self.queue[0][0] if self.queue else None
            # An answer that is there by its deadline counts: the coordinator reads all of them before it fires one.
            waking = saga.wake_at is not None and (at is None or saga.wake_at < at)
            moment = saga.wake_at if waking else at
            if moment is None or (until is not None and moment > until):
                saga.now = max(saga.now, until or 0)
                return
            saga.now = max(saga.now, moment)
            self._next(waking)

    def _next(self, waking: bool) -> None:
        saga = self.saga
        if waking:
            self._receive(saga.happen(Wake(gate=saga.now)))
            return
        _, number, happened, told = heappop(self.queue)
        saga.say(told)
        ended = self.handled.pop(number, None)
        if ended is not None:
            self.lines.end(ended)
            self._begin(ended)
        ignored = len(saga.ignored)
        commands = saga.happen(happened)
        if len(saga.ignored) > ignored:
            saga.say(f"! no effect: {saga.ignored[-1].detail}")
        elif isinstance(happened, Reply):
            self._note_undone(happened)
        self._receive(commands)

    def _note_undone(self, reply: Reply) -> None:
        name, action, _ = self.saga.command(reply.command_id)
        step = self.saga.steps[name]
        if action == "compensate" and step.undo.status == "done":
            self.compensated.append(self.saga.contracts[step.compensate])

    def _receive(self, commands: Sequence[SendCommand]) -> None:
        for command in commands:
            if command.id in self.answered:
                continue  # sent again after silence: the same answer is on its way, or there is none
            self.answered.add(command.id)
            self.saga.say(f"→ {describe_command(command)}")
            activity = self.saga.contracts[command.activity]
            if command.action == "invoke" and command.attempt == 1:
                self.called.append(activity)
            self.lines.arrive(command)
            self._begin(command)

    def _begin(self, arrived: SendCommand) -> None:
        """Handle what the worker of this command may begin with now."""
        while (command := self.lines.begin(arrived)) is not None:
            reply = self._handled(command).reply_to(command)
            mock = self.mocks.get(command.activity)
            delay = mock.delay if mock is not None else 0
            if reply is None:
                self.lines.end(command)  # it is lost, and holds no worker up
                continue
            number = self.later(self.saga.now + delay, reply, describe_reply(command, reply))
            if delay:
                self.handled[number] = command
            else:
                self.lines.end(command)

    def _handled(self, command: SendCommand) -> Answer:
        if command.action == "invoke" and command.deadline is not None and self.saga.now > command.deadline:
            return negative("failure", "expired", "its deadline was over before a worker could begin with it")
        activity = self.saga.contracts[command.activity]
        return self._answer(command, activity, self.mocks.get(command.activity))

    def _answer(self, command: SendCommand, activity: AnyActivity, mock: _Mock | None) -> Answer:
        value = self.saga.converter.from_bytes(command.body, activity.input)
        self.inputs.setdefault(activity.name, []).append(value)
        if mock is None:
            if command.action == "compensate":
                return Answer(outcome="success")
            raise NotMocked(f"{activity.name} is not mocked, and the saga calls it" + self.saga.story())
        try:
            effect = mock.next()
            return self._effect(effect, activity, value)
        except SagaTestError as error:
            raise type(error)(f"{error}{self.saga.story()}") from error

    def _effect(self, effect: Any, activity: AnyActivity, value: Any) -> Answer:
        match effect:
            case Answer():
                return effect
            case Silence():
                return Answer(outcome="silence")
            case Mismatch():
                return mismatch(activity)
            case BaseException():
                return answer_of_exception(effect)
            case type() if issubclass(effect, BaseException):
                return answer_of_exception(effect())
            case _Function():
                try:
                    output = call(effect.function, value)
                except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes an answer
                    return answer_of_exception(error)
                return success(output, activity, self.saga.converter)
            case _:
                return success(effect, activity, self.saga.converter)
