"""A deadline on what a service's own engine is asked for: an engine that is the user's, with the user's settings.

A driver waits for ever on a half-open connection: a firewall or a failed-over proxy that forgot it, a host that lost
its power. The server's own time-outs can't be heard there, and keepalives don't see a peer that still acknowledges TCP.

psycopg does all its waiting in one public method, `Connection.wait`: for BEGIN, statements, COMMIT, ROLLBACK, the
pool's ping and its reset. So the watchdog is armed there; SQLAlchemy's events have no end of a COMMIT, and no ping. The
time between two calls, such as a handler's own work, does not count. Other drivers have settings for this
(`command_timeout` of asyncpg, `read_timeout` of PyMySQL), and SQLite has no connection that could break.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event

from segue.outbox.line import Line
from segue.outbox.pooler import ask_pid, is_pooled
from segue.outbox.watchdog import Watchdog

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

#: How long one call to a service's database may take, unless somebody says otherwise.
CALL_TIMEOUT = timedelta(seconds=30)

_LINE = "segue.line"
_DRIVERS = frozenset(("psycopg", "psycopg_async"))
#: None where the calls are not ours: the rest of the application may use the same engine as it likes.
_TIMEOUT: ContextVar[timedelta | None] = ContextVar("segue.call_timeout", default=None)


def watch(bind: Engine | AsyncEngine | Connection | AsyncConnection | None) -> None:
    """Make `deadline` hold for this engine, and let it work behind a pooler in transaction mode.

    Again is harmless, and for other drivers than psycopg nothing happens.
    """
    engine = _engine_of(bind)
    if engine is None or engine.dialect.driver not in _DRIVERS or event.contains(engine, "close", _close):
        return
    event.listen(engine, "do_connect", _connecting)
    # Before the listeners of the dialect, which have questions of their own to a new connection.
    event.listen(engine, "connect", _guard, insert=True)
    # Connections that were made before this.
    event.listen(engine, "checkout", _guard)
    event.listen(engine, "close", _close)
    # What is prepared in a session is somebody else's in the next transaction.
    spare = _Pooler()
    event.listen(engine, "connect", spare)
    event.listen(engine, "checkout", spare)


class deadline:  # noqa: N801 - a block, as `contextmanager` would make it, at a third of the cost
    """No call to a watched engine in this block waits longer than `timeout`; None: nothing changes.

    A call that does raises the driver's OperationalError, and its connection is broken: an outage like any other. If
    it was a COMMIT, nobody knows whether it happened.
    """

    __slots__ = ("_timeout", "_token")

    def __init__(self, timeout: timedelta | None) -> None:
        self._timeout = timeout
        self._token: Token[timedelta | None] | None = None

    def __enter__(self) -> None:
        if self._timeout is not None:
            self._token = _TIMEOUT.set(self._timeout)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _TIMEOUT.reset(self._token)


def guarded(connection: Connection) -> AbstractContextManager[None]:
    """The same for a call that is made below the driver's own `wait`, on a connection of a watched engine."""
    timeout, line = _TIMEOUT.get(), connection.info.get(_LINE)
    return nullcontext() if timeout is None or line is None else _Bounded(timeout, line)


class _Bounded:
    """A guard around one call, and if it cut the connection an error that says so."""

    __slots__ = ("_guard", "_timeout")

    def __init__(self, timeout: timedelta, line: Line) -> None:
        self._timeout = timeout
        self._guard = _watchdog(timeout).guard(line.cut)

    def __enter__(self) -> None:
        self._guard.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.__exit__(kind, error, trace)
        if self._guard.fired and isinstance(error, Exception):
            text = f"the database did not answer within {self._timeout.total_seconds():g} s; the connection was cut"
            raise type(error)(text) from error


@cache
def _watchdog(timeout: timedelta) -> Watchdog:
    return Watchdog(timeout)


def _engine_of(bind: Engine | AsyncEngine | Connection | AsyncConnection | None) -> Engine | None:
    # Nothing is asynchronous where nobody has loaded that part of SQLAlchemy, and to load it takes a tenth of a second.
    asynchronous: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    found: Any = bind
    if asynchronous is not None and isinstance(found, asynchronous.AsyncEngine):
        found = found.sync_engine
    elif asynchronous is not None and isinstance(found, asynchronous.AsyncConnection):
        found = found.sync_connection
    return found.engine if isinstance(found, (Engine, Connection)) else None


def _connecting(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
    timeout = _TIMEOUT.get()
    if timeout is not None and "PGCONNECT_TIMEOUT" not in os.environ:
        options.setdefault("connect_timeout", max(2, round(timeout.total_seconds())))


def _guard(dbapi_connection: Any, record: Any, *_: object) -> None:
    if _LINE in record.info:
        return
    driver = record.driver_connection
    line = record.info[_LINE] = Line(driver.fileno())
    bounded = _bounded_async if hasattr(driver, "__aenter__") else _bounded
    driver.wait = bounded(type(driver).wait, weakref.ref(driver), line)


class _Pooler:
    """Turns prepared statements off on the connections of an engine behind a pooler; asks the first one only."""

    def __init__(self) -> None:
        self._found: bool | None = None

    def __call__(self, dbapi_connection: Any, record: Any, *_: object) -> None:
        driver = record.driver_connection
        if self._found is None and driver.prepare_threshold is not None:
            self._found = is_pooled(driver, ask_pid(dbapi_connection))
        if self._found:
            driver.prepare_threshold = None


def _close(dbapi_connection: Any, record: Any) -> None:
    line = record.info.pop(_LINE, None)
    if line is not None:
        line.close()


def _bounded(wait: Callable[..., Any], driver: weakref.ref[Any], line: Line) -> Callable[..., Any]:
    def bounded(*arguments: Any, **options: Any) -> Any:
        timeout = _TIMEOUT.get()
        if timeout is None:
            return wait(driver(), *arguments, **options)
        with _Bounded(timeout, line):
            return wait(driver(), *arguments, **options)

    return bounded


def _bounded_async(wait: Callable[..., Any], driver: weakref.ref[Any], line: Line) -> Callable[..., Any]:
    async def bounded(*arguments: Any, **options: Any) -> Any:
        timeout = _TIMEOUT.get()
        if timeout is None:
            return await wait(driver(), *arguments, **options)
        with _Bounded(timeout, line):
            return await wait(driver(), *arguments, **options)

    return bounded
