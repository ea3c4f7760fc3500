"""SQLite under the scheduler: the driver that the product's SQL runs on, with a boundary at every statement.

A database is one connection in memory with one transaction at a time, as SQLite has one writer. Whoever wants to run a
statement meanwhile is frozen till that transaction is over, and is told "database is locked" after a while. So nothing
is committed in the middle of somebody's transaction; the tier in memory has that. Here the statements are real, and
each may fail, or be the last one of its process; a COMMIT has its three outcomes.
"""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Integer, MetaData, create_engine, event, literal_column
from sqlalchemy.pool import StaticPool

from segue.errors import StoreUnavailable
from segue.topics.broker import Partition, Record
from tests.simulation.calls import read, unanswered
from tests.simulation.world import CLOSE, SECOND, Process, World

#: How long a statement waits for another one's transaction, in microseconds: `lock_timeout`, and the driver's own.
PATIENCE = 5 * SECOND
#: Where engines think that their database is; the driver never opens it.
URL = "sqlite:///simulated"
_WRITES = re.compile(r"\s*(?:INSERT(?: OR IGNORE)? INTO|UPDATE|DELETE FROM|REPLACE INTO)\s+\"?(\w+)", re.IGNORECASE)


def template(*tables: MetaData) -> bytes:
    """An empty database with these tables."""
    raw = sqlite3.connect(":memory:", check_same_thread=False)
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    for metadata in tables:
        metadata.create_all(engine)
    engine.dispose(close=False)
    empty = raw.serialize()
    raw.close()
    return empty


class File:
    """One database."""

    def __init__(self, world: World, empty: bytes) -> None:
        self.world = world
        self.raw = sqlite3.connect(":memory:", isolation_level=None)
        self.raw.deserialize(empty)
        self.raw.create_function("strftime", 2, self._now)
        #: Whose transaction is open.
        self.holder: Link | None = None
        #: Tables which that transaction has written to.
        self.written: set[str] = set()
        #: Told right before and right after a COMMIT that changes something.
        self.committing: Callable[[Link], None] = lambda link: None
        self.committed: Callable[[Link], None] = lambda link: None
        self._waiting: list[Process] = []
        self._errands: deque[Callable[[], None]] = deque()

    def _now(self, pattern: str, when: str) -> str:
        """SQLite's clock, which has milliseconds."""
        assert when == "now"
        date, _, rest = pattern.partition("%H:%M:%f")
        moment = self.world.db_now().replace(tzinfo=None).isoformat(date[-1], "milliseconds")
        return moment + rest

    def soon(self, errand: Callable[[], None]) -> None:
        """Run the errand of somebody who is no process, when no transaction is open."""
        self._errands.append(errand)
        self._run_errands()

    def _run_errands(self) -> None:
        while self._errands and self.holder is None:
            self._errands.popleft()()

    def wait(self, link: Link) -> None:
        """Return when nobody else's transaction is open. Raises what SQLite raises if that takes too long."""
        if self.holder is None or self.holder is link:
            return
        process, until = link.slot.process, self.world.now + PATIENCE
        assert process is not None, "whoever is no process comes when nothing is open"
        self.world.points["locked"] += 1
        while self.holder is not None:
            if self.world.now >= until:
                process.hurt = True  # its loop has to find its way back, as after any other error
                raise trouble("database is locked", "SQLITE_BUSY")
            self._waiting.append(process)
            try:
                process.sleep(until - self.world.now)
            finally:
                self._waiting.remove(process)

    def hold(self, link: Link) -> None:
        """Its transaction begins."""
        self.holder = link
        self.written.clear()

    def release(self) -> None:
        """The transaction is over: those who wait try again."""
        self.holder = None
        self._run_errands()
        for process in self._waiting:
            self.world.put(process, self.world.now)


def trouble(sentence: str, name: str) -> sqlite3.OperationalError:
    """An error as the driver raises it."""
    error = sqlite3.OperationalError(sentence)
    error.sqlite_errorname = name
    return error


def _ask(process: Process) -> None:
    """The boundary in front of a statement."""
    with cut():
        read(process)


@contextmanager
def cut() -> Iterator[None]:
    """What does not answer is a broken connection, as a driver tells of it."""
    try:
        yield
    except StoreUnavailable as error:
        raise trouble("disk I/O error", "SQLITE_IOERR") from error


@dataclass(slots=True)
class Slot:
    """Where the connections of an engine lead; engines are kept from schedule to schedule, they know the statements."""

    file: File | None = None
    process: Process | None = None

    def attach(self, engine: Engine) -> None:
        """Give the engine this driver."""
        event.listen(engine, "do_connect", lambda *_: Link(self))

    def lead_to(self, file: File, process: Process | None) -> None:
        """From now on its statements are run there, by this process."""
        self.file, self.process = file, process


class Link:
    """A connection of the driver (DB-API)."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        #: None: transactions begin by BEGIN; else the driver begins one before the first statement that writes.
        self.isolation_level: str | None = ""
        #: What the code above means to write, for the oracles.
        self.intent: Any = None
        #: What the process had been given to read when it sent a COMMIT that nobody answers.
        self.given: Mapping[tuple[Partition, int], Record] | None = None
        #: Who sent that COMMIT, in which of its lives.
        self.sent_by: tuple[str, int] | None = None

    @property
    def who(self) -> tuple[str, int] | None:
        """Whose transaction it is: a process in one of its lives; None: nobody's who is one."""
        process = self.slot.process
        return self.sent_by if process is None else (process.name, process.incarnation)

    @property
    def file(self) -> File:
        assert self.slot.file is not None
        return self.slot.file

    @property
    def in_transaction(self) -> bool:
        return self.file.holder is self

    def cursor(self) -> Cursor:
        return Cursor(self)

    def execute(self, statement: str) -> None:
        """PRAGMAs, when the connection is made."""
        assert statement.startswith("PRAGMA")

    def create_function(self, *_: Any, **__: Any) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def cross(self, statement: str) -> None:
        """The boundary in front of a statement."""
        file, process = self.file, self.slot.process
        if process is not None:
            _ask(process)
        file.wait(self)
        written = _WRITES.match(statement)
        if file.holder is None and statement.startswith("BEGIN"):
            file.hold(self)
        elif file.holder is None and written is not None:
            assert self.isolation_level is not None, f"outside of a transaction: {statement}"
            file.raw.execute("BEGIN")
            file.hold(self)
        if written is not None:
            file.written.add(written[1])

    def commit(self) -> None:
        """COMMIT, in one of its three outcomes."""
        if not self.in_transaction:
            return
        file, process = self.file, self.slot.process
        if not file.written:
            self._end()
            return
        fault = None
        if process is not None:
            process.give_way()
            fault = process.io(CLOSE)
        if fault == "commit.failed":
            self.rollback()
            raise trouble("disk I/O error", "SQLITE_IOERR")
        if fault == "db.hangs" and process is not None:
            self._give_up(process)
        try:
            self._apply()
        finally:
            self._end()
        if fault == "commit.ambiguous":
            file.world.points["ambiguous_commit"] += 1
            raise trouble("disk I/O error", "SQLITE_IOERR")
        if fault == "kill.after_commit" and process is not None:
            process.die()

    def rollback(self) -> None:
        if self.in_transaction:
            self._end()

    def close(self) -> None:
        """What is open is rolled back; the database stays."""
        if self.slot.file is not None:
            self.rollback()

    def _apply(self) -> None:
        file = self.file
        file.committing(self)
        file.raw.execute("COMMIT")
        file.committed(self)

    def _give_up(self, process: Process) -> None:
        """Send a COMMIT that is not answered; from now on the transaction is the server's, whatever becomes of us."""
        left = Link(Slot(self.file))
        left.intent, left.given, left.sent_by = self.intent, dict(process.given), self.who
        self.file.holder, self.intent = left, None
        with cut():
            unanswered(process, left._apply, left._end)

    def _end(self) -> None:
        """The transaction is over; what was not committed is rolled back."""
        raw = self.file.raw
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        self.intent = None
        self.file.release()


class Cursor(sqlite3.Cursor):
    """A cursor on the database to which its connection leads."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.file.raw)
        self._link = link

    def execute(self, statement: str, parameters: Any = ()) -> Cursor:
        if not statement.startswith("PRAGMA"):
            self._link.cross(statement)
        super().execute(statement, parameters)
        return self

    def executemany(self, statement: str, parameters: Iterable[Any]) -> Cursor:
        self._link.cross(statement)
        super().executemany(statement, parameters)
        return self


class Reader:
    """Reads what is committed, for the oracles: at no boundary, in no transaction."""

    def __init__(self) -> None:
        self._slot = Slot()
        self._engine = create_engine(URL, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
        event.listen(self._engine, "do_connect", lambda *_: _Window(self._slot))
        self._connection: Any = None

    def open(self, file: File) -> None:
        self._slot.file = file
        if self._connection is None:
            self._connection = self._engine.connect()

    def rows(self, statement: Any, **parameters: Any) -> Any:
        """All rows of a Core statement."""
        return self._connection.execute(statement, parameters).all()


class _Window(Link):
    def cross(self, statement: str) -> None:
        pass


#: By this SQLite orders what it was given first.
ROWID = literal_column("rowid", Integer)
