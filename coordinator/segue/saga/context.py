"""`Saga`: what saga code holds in its hands. Every method is deterministic and durable."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, overload
from uuid import UUID

import msgspec

from segue.clock import from_micros
from segue.contract import Activity, Attribute, Signal, Undo
from segue.errors import ContractError, InvalidId
from segue.ids import derive
from segue.limits import MAX_ID_LENGTH, check_id
from segue.saga import events as e
from segue.saga.failures import ContinueAsNew, SagaStopped
from segue.saga.program import Compensated, Pending
from segue.saga.retry import LONGEST, Retry, check_duration, check_policy, micros
from segue.saga.scope import Scope, enter_step, request_undo, step_to_undo
from segue.saga.slots import Slots

if TYPE_CHECKING:
    from segue.saga.program import Program

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")

#: A step's time over all its attempts, if it names none.
DEFAULT_TIMEOUT = timedelta(minutes=5)
_NO_TIME = timedelta(0)
#: Shortest durable wait: what has come before is handed over first, also where the code does not want to wait.
_AT_ONCE = timedelta(milliseconds=1)


class Saga:
    """The handle through which saga code acts: `s.call`, `s.map`, `s.receive`, `s.pivot`, `s.set`, `s.now`."""

    __slots__ = ("_program", "_random")

    def __init__(self, program: Program) -> None:
        self._program = program
        self._random: Random | None = None

    @property
    def id(self) -> str:
        """The saga's id."""
        return self._program.saga_id

    @property
    def run(self) -> int:
        """The number of this run: 1, and one more after each `continue_as_new`."""
        return self._program.run

    @property
    def random(self) -> Random:
        """Random numbers that are the same at every replay."""
        # Made when it is first asked for: its state of 2.5 kB would be a quarter of a waiting saga.
        if self._random is None:
            self._random = Random(self._program.saga_id + self._of_run())  # noqa: S311 - reproducible on purpose
        return self._random

    def now(self) -> datetime:
        """The time of the event that the code reacts to: the database's clock, the same at every replay."""
        return from_micros(self._program.loop.now)

    def uuid(self) -> UUID:
        """An id derived from the saga's id and the number of ids asked for so far."""
        self._program.uuids += 1
        return UUID(derive("uuid", self._program.saga_id, str(self._program.uuids) + self._of_run()))

    @overload
    async def call(
        self,
        activity: Activity[I, O],
        input: I,
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        heartbeat_timeout: timedelta | None = None,
        optional: Literal[False] = False,
        on_failure: Literal["raise", "park"] = "raise",
        step: str | None = None,
        key: str | None = None,
    ) -> O: ...
    @overload
    async def call(
        self,
        activity: Activity[I, O],
        input: I,
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        heartbeat_timeout: timedelta | None = None,
        optional: bool,
        on_failure: Literal["raise", "park"] = "raise",
        step: str | None = None,
        key: str | None = None,
    ) -> O | None: ...
    def call(
        self,
        activity: Activity[I, O],
        input: I,
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        heartbeat_timeout: timedelta | None = None,
        optional: bool = False,
        on_failure: Literal["raise", "park"] = "raise",
        step: str | None = None,
        key: str | None = None,
    ) -> Coroutine[Any, Any, O | None]:
        """Have `activity` done and wait for its output.

        `compensate` undoes it if the saga fails later; `retry` says how often a transient failure is tried again;
        `timeout` bounds the step over all attempts; a heartbeat of the handler gives it anew. A handler that is silent
        for `heartbeat_timeout` is taken for dead: the same command is asked again, long before the step's time is over,
        and another worker goes on where the last heartbeat was (without it, after the policy's `silence`).
        A spent step raises ActivityError (ActivityRejected, ActivityTimeout), waits for a person with
        `on_failure="park"`, or counts as done with `optional=True`.

        Commands of different steps are handled in parallel, those of one step one after the other. `key` names an
        entity (an account): the service handles all commands with the same key one after the other, whichever saga and
        step they are of.
        """
        # Not itself a coroutine: a waiting step would hold two frames.
        return self._call(
            activity, input, compensate, retry, timeout, optional, on_failure, step, "", key, heartbeat_timeout
        )

    @overload
    async def map(
        self,
        activity: Activity[I, O],
        inputs: Sequence[I],
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        concurrency: int = 100,
        return_exceptions: Literal[False] = False,
        step: str | None = None,
    ) -> list[O]: ...
    @overload
    async def map(
        self,
        activity: Activity[I, O],
        inputs: Sequence[I],
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        concurrency: int = 100,
        return_exceptions: bool,
        step: str | None = None,
    ) -> list[O | BaseException]: ...
    async def map(
        self,
        activity: Activity[I, O],
        inputs: Sequence[I],
        *,
        compensate: Activity[Undo[I, O], None] | None = None,
        retry: Retry | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        heartbeat_timeout: timedelta | None = None,
        concurrency: int = 100,
        return_exceptions: bool = False,
        step: str | None = None,
    ) -> list[Any]:
        """`call` for each input, at most `concurrency` at a time; results in the order of the inputs.

        Occurrences are named `activity[0]`, `activity[1]`, … With `return_exceptions` a spent one is an item; without,
        the first one that is spent ends the map: no further item is asked for, and those under way are given up.
        """
        if concurrency < 1:
            raise ContractError(f"map {activity.name}: concurrency={concurrency}, it must be at least 1")
        base = self._occurrence(activity.name, step, "")
        slots = Slots(concurrency)

        ends = self._program.rules >= 1 and not return_exceptions
        failed: list[int] = []

        async def one(n: int, item: I) -> O:
            async with slots:
                if failed:
                    raise asyncio.CancelledError
                try:
                    return await self._call(  # type: ignore[no-any-return]
                        activity,
                        item,
                        compensate,
                        retry,
                        timeout,
                        False,
                        "raise",
                        base,
                        f"[{n}]",
                        None,
                        heartbeat_timeout,
                    )
                except Exception:
                    if ends:
                        failed.append(n)  # noted before the next one has the slot
                    raise

        items = [asyncio.ensure_future(one(n, item)) for n, item in enumerate(inputs)]
        try:
            return await asyncio.gather(*items, return_exceptions=return_exceptions)
        except Exception:  # what cancels the map cancels its items, too
            if ends:
                await _cancelled(items)
            raise

    async def receive(
        self, signal: Signal[T], *, timeout: timedelta | None = None, expected: timedelta | None = None
    ) -> T:
        """The next signal of this kind, in the order of arrival. Raises TimeoutError after `timeout`.

        With a `timeout` of zero it is one that is there already, or none. One that has not come when `expected` is over
        makes the saga overdue: people find it among the stuck ones, and the code goes on waiting.
        """
        if timeout is None:
            return await self._receive(signal, expected)
        async with asyncio.timeout(max(timeout, _AT_ONCE).total_seconds()):
            return await self._receive(signal, expected)

    async def undo(self, step: str | Activity[Any, Any]) -> None:
        """Undo a step now, once, and go on when it is undone; a later undo of the saga leaves it alone.

        `step` is an activity that was called once with a compensation, or a step's name. A call that is still under way
        is given up. A compensation that is spent waits for a person, and so does the code. Raises ContractError for a
        step without a compensation, one that is undone already, and after the pivot.
        """
        self._check()
        if self._program.pivot:
            raise ContractError("undo: the saga is past its pivot, nothing is undone any more")
        name = step_to_undo(self._program, step, self._of_run())
        undone = request_undo(self._program, (name,))
        if undone is not None:
            await undone

    def scope(self, name: str = "") -> Scope:
        """A part of the saga: a failure that leaves it undoes what was done in it, in reverse, and the saga goes on.

        `async with s.scope("booking") as booking: …`, and afterwards `if booking.undone: …`, where `booking.failure` is
        what left it. A failure is what would undo the whole saga: SagaError and TimeoutError. Other exceptions pass, as
        bugs do, and so does everything after the pivot. Tasks made in it are part of it. An outer timeout that cancels
        it has it undone, too, and does not wait.
        """
        self._check()
        return Scope(self._program, name)

    def compensated(self, result: T) -> T:
        """`return s.compensated(result)`: undo what is not undone yet, and end as `compensated` with this result.

        Raises ContractError after the pivot.
        """
        self._check()
        if self._program.pivot:
            raise ContractError("compensated: the saga is past its pivot, nothing is undone any more")
        return cast("T", Compensated(result))

    async def sleep(self, duration: timedelta) -> None:
        """Wait, durably: `asyncio.sleep` for a timedelta."""
        await asyncio.sleep(duration.total_seconds())

    def pivot(self) -> None:
        """The point of no return: from here on nothing is compensated automatically, only retried or parked."""
        self._check()
        self._program.pivot = True
        self._program.undoable.clear()
        self._program.requests.append(e.PivotPassed())

    def set(self, attribute: Attribute[T], value: T) -> None:
        """Put a value on the saga's row, where clients query it."""
        self._check()
        data = self._program.converter.to_bytes(value, attribute.type)
        if self._program.types is not None:
            self._program.types[f"@{attribute.name}"] = attribute.type
        self._program.requests.append(e.AttributeSet(name=attribute.name, value=msgspec.Raw(data)))

    def continue_as_new(self, input: Any, *, deadline: timedelta | None = None) -> NoReturn:
        """End this run and begin the next one of the same saga with `input`, in one transaction.

        For sagas that live long: the new run has an empty history and runs the newest version that is deployed. The id,
        the attributes, the signals that nobody has received, and the deadline (unless a new one is given, from now on)
        stay. Raises ContractError while a call is open, and where the undo of a step would be forgotten: what was
        done before stands for good, so pass the pivot first. Raises InvalidPayload for an input of another type.
        """
        self._check()
        program = self._program
        if (why_not := program.why_not_continue()) != "":
            raise ContractError(f"continue_as_new: {why_not}")
        if deadline is not None:
            check_duration("continue_as_new: deadline", deadline)
        data = program.converter.to_bytes(input, program.definition.input_type)
        raise ContinueAsNew(data, None if deadline is None else program.loop.now + micros(deadline))

    # --- inside

    async def _call(
        self,
        activity: Activity[Any, Any],
        input: Any,
        compensate: Activity[Any, Any] | None,
        retry: Retry | None,
        timeout: timedelta,
        optional: bool,
        on_failure: Literal["raise", "park"],
        step: str | None,
        index: str,
        key: str | None = None,
        heartbeat_timeout: timedelta | None = None,
    ) -> Any:
        self._check()
        if key is not None and not (0 < len(key) <= MAX_ID_LENGTH and "\x00" not in key):
            raise ContractError(f"{activity.name}: key={key!r:.80}, it must have 1 to {MAX_ID_LENGTH} characters")
        if activity.undoes and self._program.rules >= 1:
            raise ContractError(
                f"{activity.name} undoes {activity.undoes}: called, it would run once more when the saga is undone;"
                f" `await s.undo(…)` undoes a step now and once, and `async with s.scope():` a part of the saga"
            )
        if compensate is not None and compensate.undoes != activity.name:
            raise ContractError(f"{compensate.name} undoes {compensate.undoes or 'nothing'}, not {activity.name}")
        if timeout.__class__ is not timedelta or not _NO_TIME < timeout <= LONGEST:  # no sentence for one that is right
            check_duration(f"{activity.name}: timeout", timeout)
        if heartbeat_timeout is not None:
            check_duration(f"{activity.name}: heartbeat_timeout", heartbeat_timeout)
        if retry is not None:
            check_policy(f"{activity.name}: retry", retry)
        name = step + index if index and step else self._occurrence(activity.name, step, index)
        if len(name) > MAX_ID_LENGTH:  # what tells runs and indexes apart comes on top of a name that fitted
            raise InvalidId(f"step {name!r:.80} has {len(name)} characters, allowed are {MAX_ID_LENGTH}")
        program = self._program
        data = program.converter.to_bytes(input, activity.input)
        enter_step(name)
        if compensate is not None:
            program.compensable[name] = activity.name
        if program.types is not None:
            program.types[activity.name] = activity.input
        pending = Pending(program.loop.create_future(), activity.output, undoable=compensate is not None)
        program.steps[name] = pending
        program.requests.append(
            e.StepScheduled(
                step=name,
                activity=activity.name if activity.name != name else "",
                input=msgspec.Raw(data),
                compensate=compensate.name if compensate is not None else "",
                readonly=activity.readonly,
                optional=optional,
                park=on_failure == "park",
                timeout=micros(timeout),
                retry=retry,
                key=key or "",
                heartbeat=0 if heartbeat_timeout is None else micros(heartbeat_timeout),
            )
        )
        try:
            return await pending.future
        except asyncio.CancelledError:
            if program.steps.pop(name, None) is not None and not program.stopped:
                program.requests.append(e.StepAbandoned(step=name))
                if optional and compensate is not None and not program.pivot:
                    program.undoable.append(name)  # any other one is undone at once
            raise
        finally:
            del pending  # it has the failure, whose traceback has this frame

    async def _receive(self, signal: Signal[T], expected: timedelta | None) -> T:
        self._check()
        program = self._program
        due = 0 if expected is None else program.loop.now + _expected(signal, expected)
        n = program.received = program.received + 1
        pending = Pending(program.loop.create_future(), signal.type)
        program.receives[n] = pending
        program.requests.append(e.ReceiveStarted(n=n, signal=signal.name, expected=due))
        try:
            return await pending.future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if program.receives.pop(n, None) is not None and not program.stopped:
                program.requests.append(e.ReceiveCancelled(n=n))
            raise

    def _occurrence(self, activity: str, step: str | None, index: str) -> str:
        names = self._program.names
        base = step or activity
        n = names[base] = names.get(base, 0) + 1
        if step is not None and n > 1:
            raise ContractError(f"two steps are called {step!r}; an explicit step name must be unique in the saga")
        return check_id("step", base) + self._of_run() + (f"#{n}" if n > 1 else "") + index

    def _of_run(self) -> str:
        """What tells the names and ids of one run from those of another; no id of a user has an @."""
        return f"@{self._program.run}" if self._program.run > 1 else ""

    def _check(self) -> None:
        if self._program.stopped:
            raise SagaStopped("the saga is being stopped")


async def _cancelled(items: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what is under way, and wait till it has given up what it called."""
    for item in items:
        item.cancel()
    if items:
        await asyncio.wait(items)


def _expected(signal: Signal[Any], expected: timedelta) -> int:
    check_duration(f"signal {signal.name}: expected", expected)
    return micros(expected)
