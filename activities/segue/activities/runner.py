"""The runner port: where jobs run, each at a desk that gives it transactions and calls its handler.

    InlineRunner   at once, in the caller's thread: simulations and tests
    ThreadRunner   in a pool of threads: sync handlers
    AsyncRunner    on one event loop in a thread of its own: `async def` handlers

A job is written once, in sync style. On the event loop it runs in a greenlet, as SQLAlchemy's own asyncio support does:
what waits (the database, the handler) is awaited by the loop, and other jobs go on meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util import await_only, greenlet_spawn

from segue.activities.shared import SharedSession, SqlSharedSession
from segue.clock import SYSTEM_CLOCK
from segue.outbox.deadline import CALL_TIMEOUT, deadline, watch
from segue.outbox.fences import SqlServiceRows
from segue.outbox.store import GroupRows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sessions:
    """A session twice: as statements are run with it, and as the handler gets it (the same, or its async face)."""

    session: Session
    handed: Any

    @property
    def rows(self) -> GroupRows:
        """The tables of Segue in the session's transaction, which the desk commits."""
        return SqlServiceRows(self.session.connection(), with_commit=True)

    def shared(self) -> SharedSession:
        """The session for several handlers, one after the other."""
        return SqlSharedSession(self.session)


class Desk(Protocol):
    """What a job works with."""

    def transaction(self) -> AbstractContextManager[Sessions]:
        """A session in a transaction: committed at the end of the block, rolled back where an exception leaves it."""
        ...

    def bare(self) -> AbstractContextManager[Sessions]:
        """A session in no transaction; what is left uncommitted at the end is rolled back."""
        ...

    def call(self, handler: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
        """Run the handler and return what it returns."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait before trying again; other jobs go on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[T]):
    """How a job ended: with a value, or with the exception that left it."""

    value: T | None = None
    error: BaseException | None = None


Job = Callable[[Desk], T]


class Runner(Protocol):
    """Runs jobs."""

    def submit(self, job: Job[T], done: Callable[[Done[T]], None]) -> None:
        """Run `job`, then call `done`, in whatever thread; whatever the job does, `done` is called."""
        ...

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run a piece of work in a transaction of its own and wait for it; from the worker's own thread."""
        ...

    def wait(self, timeout: float) -> None:
        """Return when a job has ended since the last call, at the latest after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Release threads; jobs that still run are left to end by themselves."""
        ...


# --- desks


class SyncDesk:
    """A desk over a `sessionmaker`; `call_timeout` bounds each call to a watched database."""

    def __init__(
        self,
        sessions: Callable[[], Session],
        sleep: Callable[[float], None] = SYSTEM_CLOCK.sleep,
        *,
        call_timeout: timedelta | None = None,
    ) -> None:
        self._sessions = sessions
        self._sleep = sleep
        self._call_timeout = call_timeout

    @contextmanager
    def transaction(self) -> Iterator[Sessions]:
        with self.bare() as both, both.session.begin():
            yield both

    @contextmanager
    def bare(self) -> Iterator[Sessions]:
        with deadline(self._call_timeout), self._sessions() as session:
            yield Sessions(session, session)

    def call(self, handler: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
        return handler(context, value)

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)


class AsyncDesk:
    """A desk over an `async_sessionmaker`; only to be used inside a greenlet of the event loop."""

    def __init__(self, sessions: Callable[[], AsyncSession], *, call_timeout: timedelta | None = None) -> None:
        self._sessions = sessions
        self._call_timeout = call_timeout

    @contextmanager
    def transaction(self) -> Iterator[Sessions]:
        with self.bare() as both, both.session.begin():
            yield both

    @contextmanager
    def bare(self) -> Iterator[Sessions]:
        handed = self._sessions()
        with deadline(self._call_timeout), handed.sync_session as session:
            yield Sessions(session, handed)

    def call(self, handler: Callable[[Any, Any], Awaitable[Any]], context: Any, value: Any) -> Any:
        return await_only(handler(context, value))

    def sleep(self, seconds: float) -> None:
        await_only(asyncio.sleep(seconds))


# --- runners


class InlineRunner:
    """Runs a job when it is submitted, before `submit` returns."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def submit(self, job: Job[T], done: Callable[[Done[T]], None]) -> None:
        done(_run(job, self._desk))

    def transact(self, work: Callable[[Connection], T]) -> T:
        return _transact(self._desk, work)

    def wait(self, timeout: float) -> None:
        pass

    def close(self) -> None:
        pass


class ThreadRunner:
    """Runs jobs in `threads` threads."""

    def __init__(self, sessions: sessionmaker[Any], threads: int, *, call_timeout: timedelta = CALL_TIMEOUT) -> None:
        _watch_binds(sessions)
        self._desk = SyncDesk(sessions, call_timeout=call_timeout)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="segue-worker")
        self._ended = threading.Event()

    def submit(self, job: Job[T], done: Callable[[Done[T]], None]) -> None:
        self._pool.submit(_run, job, self._desk).add_done_callback(partial(_hand_over, done, self._ended))

    def transact(self, work: Callable[[Connection], T]) -> T:
        return _transact(self._desk, work)

    def wait(self, timeout: float) -> None:
        self._ended.wait(timeout)
        self._ended.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class AsyncRunner:
    """Runs jobs on one event loop, in a thread of its own."""

    def __init__(self, sessions: async_sessionmaker[Any], *, call_timeout: timedelta = CALL_TIMEOUT) -> None:
        _watch_binds(sessions)
        self._desk = AsyncDesk(sessions, call_timeout=call_timeout)
        self._engine = sessions.kw.get("bind")
        self._ended = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._run_forever, name="segue-worker-loop", daemon=True)
        self._thread.start()

    def _run_forever(self) -> None:
        while not self._closing:
            try:
                self._loop.run_forever()  # a handler may have stopped it: then it runs on
            except BaseException as error:  # noqa: BLE001 - asyncio lets SystemExit of a handler's task end the loop
                what = "a task of a handler would have ended the worker's event loop"
                self._loop.call_exception_handler({"message": what, "exception": error})

    def submit(self, job: Job[T], done: Callable[[Done[T]], None]) -> None:
        async def work() -> Done[T]:
            return cast("Done[T]", await greenlet_spawn(_run, job, self._desk))

        # A task that is cancelled before it began runs nothing of it: its end is told by the future alone.
        asyncio.run_coroutine_threadsafe(work(), self._loop).add_done_callback(partial(_hand_over, done, self._ended))

    def transact(self, work: Callable[[Connection], T]) -> T:
        async def run() -> T:
            return cast("T", await greenlet_spawn(_transact, self._desk, work))

        future: Future[T] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future.result()

    def wait(self, timeout: float) -> None:
        self._ended.wait(timeout)
        self._ended.clear()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()  # its pooled connections belong to this loop, nobody else could close them


def _watch_binds(sessions: sessionmaker[Any] | async_sessionmaker[Any]) -> None:
    for bind in (sessions.kw.get("bind"), *(sessions.kw.get("binds") or {}).values()):
        watch(bind)


def _run(job: Job[T], desk: Desk) -> Done[T]:
    try:
        return Done(value=job(desk))
    except BaseException as error:  # noqa: BLE001 - handed to the loop, which decides; nothing kills the process
        return Done(error=error)


def _hand_over(done: Callable[[Done[T]], None], ended: threading.Event, future: Future[Done[T]]) -> None:
    """Tell how a job ended that has run, was cancelled, or was hit from outside on its last lines."""
    try:
        how = future.result()
    except BaseException as error:  # noqa: BLE001 - the same
        how = Done(error=error)
    done(how)
    ended.set()


def _transact(desk: Desk, work: Callable[[Connection], T]) -> T:
    with desk.transaction() as both:
        return work(both.session.connection())
