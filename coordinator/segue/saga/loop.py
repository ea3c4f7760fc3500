"""A deterministic asyncio event loop: no selector, no threads, no clock.

`asyncio.gather`, `TaskGroup`, `asyncio.timeout`, `asyncio.sleep`, locks, queues and semaphores work on it unchanged.
One call of `run` executes everything that is ready and returns; time moves only when the caller sets it. Tasks hash by
the number of their creation, because TaskGroup keeps them in sets and cancels them in the set's order.
"""

from __future__ import annotations

import asyncio
from asyncio import events as asyncio_events
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from segue.errors import ContractError, UsageError
from segue.saga.retry import LONGEST

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Callbacks in one run; a saga that never comes to rest is a bug in its code, not a reason to hang the coordinator.
MAX_CALLBACKS = 5_000_000


_LONGEST_WAIT = LONGEST.total_seconds()


def _check_wait(seconds: float) -> None:
    """Raise ContractError for a wait that never ends, or is no number: here its line is still known."""
    if not seconds <= _LONGEST_WAIT:
        raise ContractError(f"a wait of {seconds:g} s: the longest is {_LONGEST_WAIT:,.0f} s (1,000 years)")


class _NumberedTask(asyncio.Task[T]):
    """A task whose hash is its number."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        # asyncio puts every new task into one set of the whole process, before it has a number: sagas must not collide.
        return self.number or object.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class SagaLoop(asyncio.AbstractEventLoop):
    """The loop of one saga. `timers` holds what the code wants to be woken for: number → (when in µs, handle)."""

    def __init__(self) -> None:
        self.now: int = 0
        self.timers: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        self.cancelled_timers: list[int] = []
        self.new_timers: list[int] = []
        self._numbers: dict[int, int] = {}
        self._ready: list[asyncio.Handle] = []
        self._tasks = 0
        self._timer_count = 0
        self._running = False

    # --- what the driver calls

    def run(self) -> None:
        """Run until nothing is ready."""
        outer = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(self)
        self._running = True
        # A list taken from its end, because every saga in memory has one: an empty deque holds 600 bytes.
        turn: list[asyncio.Handle] = []
        callbacks = 0
        try:
            while self._ready:
                turn, self._ready = self._ready, turn
                turn.reverse()
                callbacks += len(turn)
                if callbacks > MAX_CALLBACKS:
                    raise UsageError("the saga's code does not come to rest: an endless loop without a durable wait")
                while turn:
                    handle = turn.pop()
                    if not handle._cancelled:
                        handle._run()
        finally:
            self._ready[:0] = reversed(turn)
            self._running = False
            asyncio_events._set_running_loop(outer)

    def fire(self, n: int) -> bool:
        """Make timer `n` ready; False if the code has cancelled it."""
        entry = self.timers.pop(n, None)
        if entry is None:
            return False
        self._numbers.pop(id(entry[1]), None)
        self._ready.append(entry[1])
        return True

    # --- what asyncio calls

    def time(self) -> float:
        return self.now / 1_000_000

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        _check_wait(delay)
        return self._call_at_micros(self.now + round(delay * 1_000_000), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        _check_wait(when - self.time())
        return self._call_at_micros(round(when * 1_000_000), callback, args, context)

    def _call_at_micros(
        self, at: int, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(at / 1_000_000, callback, args, self, context)
        if at <= self.now:
            self._ready.append(handle)
            return handle
        self._timer_count += 1
        n = self._timer_count
        self.timers[n] = (at, handle)
        self._numbers[id(handle)] = n
        self.new_timers.append(n)
        handle._scheduled = True  # type: ignore[attr-defined]
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        n = self._numbers.pop(id(handle), None)
        if n is not None and self.timers.pop(n, None) is not None:
            self.cancelled_timers.append(n)

    @property
    def tasks_made(self) -> int:
        """How many tasks the code has made so far: what a replay has to make again."""
        return self._tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[T]:
        self._tasks += 1
        task: _NumberedTask[T] = _NumberedTask.__new__(_NumberedTask)
        task.number = 0
        task.__init__(  # type: ignore[misc]
            coro, loop=self, name=f"task-{self._tasks}" if name is None else str(name), context=context
        )
        task.number = self._tasks
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Exceptions that nobody retrieved are told at garbage collection, which is not deterministic: dropped."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        pass

    async def shutdown_asyncgens(self) -> None:
        pass

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        raise UsageError("threads are not deterministic: a saga can't use them; call an activity instead")
