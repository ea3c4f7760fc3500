"""The saga's code, running: a coroutine on a deterministic loop that turns deliveries into requests.

A program never touches the state. It is told one delivery at a time and answers with what its code asked for until
it came to rest. It can be thrown away at any moment and made anew by telling it the same deliveries.
"""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Awaitable, Collection, Coroutine
from dataclasses import dataclass
from itertools import islice
from types import CodeType
from typing import Any

import msgspec

from segue.errors import ContractError, UsageError
from segue.saga import events as e
from segue.saga.busy import Busy, guarded
from segue.saga.definition import Converter, SagaDefinition
from segue.saga.failures import (
    ActivityError,
    ActivityRejected,
    ActivityTimeout,
    ContinueAsNew,
    Nondeterminism,
    SagaError,
)
from segue.saga.loop import SagaLoop
from segue.saga.reasons import COMPENSATED
from segue.saga.steps import Delivery

#: What the code may ask for; the engine records each as an event.
Request = (
    e.StepScheduled
    | e.StepAbandoned
    | e.TimerStarted
    | e.TimerCancelled
    | e.ReceiveStarted
    | e.ReceiveCancelled
    | e.AttributeSet
    | e.PivotPassed
    | e.UndoRequested
    | e.ProgramReturned
    | e.RunEnded
    | e.StopRequested
)


#: What to do about a timedelta where asyncio wants seconds.
_SECONDS = "; asyncio takes seconds: write `await s.sleep(duration)`, or `duration.total_seconds()`"
#: Lines of the saga's code that are kept of an exception.
_FRAMES = 5


@dataclass(slots=True)
class CodeFailed(Exception):
    """The saga's code failed in a way that must not start an undo: a bug. The saga is blocked, nothing is lost."""

    failure: e.Failure


class Compensated(msgspec.Struct, frozen=True):
    """What `s.compensated` makes of a result: all is to be undone, and the saga ends with it."""

    value: Any


@dataclass(slots=True)
class SignalUnfit(Exception):
    """A signal is no value of the type that the code waits for: the sender's mistake. The code was not told."""

    failure: e.Failure


class Pending(msgspec.Struct):
    """Something that the code waits for."""

    future: asyncio.Future[Any]
    type: Any
    #: A step that has a compensation.
    undoable: bool = False


class Program(msgspec.Struct):
    """One live saga function. `deliver` returns what the code asked for."""

    definition: SagaDefinition[Any, Any]
    saga_id: str
    converter: Converter
    input: bytes
    loop: SagaLoop = msgspec.field(default_factory=SagaLoop)
    requests: list[Request] = []
    steps: dict[str, Pending] = {}
    receives: dict[int, Pending] = {}
    names: dict[str, int] = {}
    #: How many ids and signals the code has asked for.
    uuids: int = 0
    received: int = 0
    #: The number of this run, and how many deliveries its code was told.
    run: int = 1
    told: int = 0
    #: What its code may rely on: `events.RULES` as they were when the run began.
    rules: int = e.RULES
    #: Steps that an undo would cover, as far as the code can know: a new run would forget them.
    undoable: list[str] = []
    #: Steps that have a compensation which the code has not asked for, and their activities.
    compensable: dict[str, str] = {}
    #: What the code waits for to be undone, and how often it has asked.
    undos: dict[int, asyncio.Future[None]] = {}
    undos_asked: int = 0
    pivot: bool = False
    #: At a replay: the type of what each activity and attribute is given, by its name.
    types: dict[str, Any] | None = None
    stopped: bool = False
    #: The code is told again what it was told before: also a null that is refused today, where it went on with it.
    replaying: bool = False
    main: asyncio.Task[Any] | None = None
    finished: bool = False

    def deliver(self, delivery: Delivery, now: int) -> list[Request]:
        """Tell the code one thing at `now` (microseconds) and run it until it rests. Raises CodeFailed, SignalUnfit."""
        self.loop.now = max(self.loop.now, now)
        match delivery.kind:
            case "start":
                self._start()
            case "step":
                self._settle(delivery)
            case "timer":
                self.loop.fire(delivery.n)
            case "undo":
                undo = self.undos.pop(delivery.n, None)
                if undo is not None and not undo.done():
                    undo.set_result(None)
            case "signal":
                self._receive(delivery)
        self.told += 1
        return self._run()

    def why_not_continue(self) -> str:
        """Why a new run can't begin here; empty if it can. The same at every replay, whatever the participants do."""
        if self.steps:
            return f"{_listed(self.steps)} is still open; await it, or leave its timeout scope"
        if self.undoable:
            return f"the undo of {_listed(self.undoable)} would be forgotten; call s.pivot() first if it is to stand"
        if self.told < 2:
            return "this run has not waited for anything yet, so it would begin anew for ever"
        return ""

    def close(self) -> None:
        """Throw the code away: its `finally` blocks run, its calls are refused, nothing that it asks for counts."""
        self.stopped = True
        main = self.main
        if main is not None and not self.finished:
            for _ in range(3):
                if main.done():
                    break
                main.cancel()
                try:
                    guarded(self.saga_id, self.loop.run)
                except Busy:
                    break
            if main.done() and not main.cancelled():
                main.exception()
        self.finished = True
        # What the code raised refers to its frames, and they to this program: without this only the garbage
        # collector would find a saga that has ended.
        self.main = None
        self.requests.clear()
        self.steps.clear()
        self.receives.clear()
        self.undos.clear()

    def _start(self) -> None:
        from segue.saga.context import Saga

        try:
            value = self.converter.from_bytes(self.input, self.definition.input_type)
        except Exception as error:
            raise CodeFailed(_failure_of(error, "the input does not fit the saga's type")) from error
        coroutine = self.definition.function(Saga(self), value)
        self.main = self.loop.create_task(
            coroutine if isinstance(coroutine, Coroutine) else _awaited(coroutine), name="saga"
        )

    def _settle(self, delivery: Delivery) -> None:
        pending = self.steps.pop(delivery.step, None)
        if pending is None or pending.future.done():
            return
        if delivery.error is None:
            if pending.undoable and not self.pivot:
                self.undoable.append(delivery.step)
            if delivery.skipped:
                pending.future.set_result(None)
            else:
                self._resolve(pending, delivery.payload, f"the output of {delivery.step}")
            return
        kind = {"rejected": ActivityRejected, "timeout": ActivityTimeout}.get(delivery.error.kind, ActivityError)
        error = kind(
            delivery.error.code,
            delivery.error.message,
            step=delivery.step,
            details=msgspec.json.decode(delivery.error.details),
            settled=delivery.settled,
        )
        pending.future.set_exception(error)

    def _receive(self, delivery: Delivery) -> None:
        pending = self.receives.get(delivery.n)
        if pending is not None and not pending.future.done():
            try:
                self._resolve(pending, delivery.payload, f"the signal {delivery.step}")
            except CodeFailed as failed:
                raise SignalUnfit(failed.failure) from failed
        self.receives.pop(delivery.n, None)

    def _resolve(self, pending: Pending, payload: msgspec.Raw, what: str) -> None:
        data = bytes(payload)
        if pending.type is None or (data == b"null" and self.replaying):
            value = None
        else:
            try:
                value = self.converter.from_bytes(data, pending.type)
            except Exception as error:
                raise CodeFailed(_failure_of(error, f"{what} does not fit the declared type")) from error
        pending.future.set_result(value)

    def _run(self) -> list[Request]:
        try:
            guarded(self.saga_id, self.loop.run)
        except (UsageError, SystemExit, Busy) as error:
            raise CodeFailed(_failure_of(error, "")) from error
        self._collect_timers()
        main = self.main
        if main is not None and main.done() and not self.finished:
            self.finished = True
            self.requests.append(self._outcome(main))
        requests, self.requests = self.requests, []
        return requests

    def _collect_timers(self) -> None:
        loop = self.loop
        if not loop.new_timers and not loop.cancelled_timers:
            return
        new = set(loop.new_timers)
        for n in loop.cancelled_timers:
            if n not in new:
                self.requests.append(e.TimerCancelled(n=n))
        for n in loop.new_timers:
            if n in loop.timers:
                self.requests.append(e.TimerStarted(n=n, at=loop.timers[n][0]))
        loop.new_timers.clear()
        loop.cancelled_timers.clear()

    def _outcome(self, main: asyncio.Task[Any]) -> Request:
        if main.cancelled():
            raise CodeFailed(e.Failure(code="CancelledError", message="the saga's code cancelled itself", kind="saga"))
        error = main.exception()
        if error is None:
            returned = main.result()
            undone = isinstance(returned, Compensated)
            try:
                data = self.converter.to_bytes(returned.value if undone else returned, self.definition.output_type)
            except Exception as unserialisable:
                raise CodeFailed(_failure_of(unserialisable, "the result can't be stored")) from unserialisable
            if undone:
                return e.StopRequested(cause="returned", error=COMPENSATED, result=msgspec.Raw(data))
            return e.ProgramReturned(result=msgspec.Raw(data))
        if isinstance(error, ContinueAsNew):
            # Asked again: a `finally` may have called something since.
            if (why_not := self.why_not_continue()) != "":
                raise CodeFailed(_failure_of(ContractError(why_not), "continue_as_new")) from error
            return e.RunEnded(input=msgspec.Raw(error.input), deadline=error.deadline)
        return e.StopRequested(cause="failure", error=failure_that_undoes(error))


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def failure_that_undoes(error: BaseException) -> e.Failure:
    """The failure under which an undo is recorded; raises CodeFailed for an exception that is a bug.

    TimeoutError counts as a failure: in a saga nothing but a durable timer raises it. Of an exception group it is the
    ActivityError that was settled first.
    """
    leaves = list(leaves_of(error))
    for leaf in leaves:
        if not isinstance(leaf, SagaError | TimeoutError):
            raise CodeFailed(_failure_of(leaf, "")) from error
    activity_errors = sorted((leaf for leaf in leaves if isinstance(leaf, ActivityError)), key=lambda x: x.settled)
    first = activity_errors[0] if activity_errors else leaves[0]
    if isinstance(first, ActivityError):
        kind = {ActivityRejected: "rejected", ActivityTimeout: "timeout"}.get(type(first), "spent")
        return e.Failure(
            code=first.failure_code,
            message=f"{first.step}: {first.message}" if first.message else first.step,
            kind=kind,  # type: ignore[arg-type]
            class_name=type(first).__name__,
        )
    if isinstance(first, SagaError):
        return e.Failure(code=first.failure_code, message=first.message, kind="saga", class_name=type(first).__name__)
    return e.Failure(code="timeout", message=str(first), kind="saga", class_name="TimeoutError")


def leaves_of(error: BaseException) -> list[BaseException]:
    """The exceptions of a group, and those of the groups in it; or the one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves_of(part)]
    return [error]


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(islice(names, 3))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _failure_of(error: BaseException, what: str) -> e.Failure:
    place = "" if isinstance(error, Nondeterminism) else _place(error)
    hint = _SECONDS if isinstance(error, TypeError) and "datetime.timedelta" in str(error) else ""
    message = ": ".join(part for part in (what, f"{str(error)[:900]}{hint}{place}") if part)
    name = type(error).__name__
    return e.Failure(code=name, message=message, kind="saga", class_name=name, frames=_frames(error))


def _place(error: BaseException) -> str:
    """` (sagas.py:17)`: the innermost line that is the user's; empty where none is."""
    lines = _user_lines(error)
    return f" ({lines[-1][0].co_filename.rpartition('/')[2]}:{lines[-1][1]})" if lines else ""


def _frames(error: BaseException) -> tuple[str, ...]:
    """The innermost lines that are the user's, as `sagas.py:17, in order_saga: await s.call(charge, order)`."""
    found = []
    for code, line in _user_lines(error)[: -_FRAMES - 1 : -1]:
        source = linecache.getline(code.co_filename, line).strip()
        found.append(f"{code.co_filename.rpartition('/')[2]}:{line}, in {code.co_name}: {source}"[:200])
    return tuple(found)


def _user_lines(error: BaseException) -> list[tuple[CodeType, int]]:
    lines = []
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in ("segue", "asyncio"):
            lines.append((frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    return lines
