"""Reading for people: a connection that can't write, pages by key, and errors that say what to do.

Nothing here takes part in driving sagas; it may run against a replica.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Row,
    RowMapping,
    Select,
    create_engine,
    event,
    exc,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from segue.clock import SYSTEM_CLOCK, from_micros, to_micros
from segue.coordinator import queries
from segue.coordinator.audit import Head
from segue.coordinator.queries import DeadLetterFilter, DeadLetterGroupBy, GroupBy, SagaFilter
from segue.coordinator.rows import dead_letter_of
from segue.coordinator.statements import SAGA_COLUMNS
from segue.coordinator.store import AuditEntry, DeadLetterRow, EventRow, HeartbeatRow, OperatorRequest, SagaRow
from segue.errors import ConfigError, InvalidId, NotFound, StoreUnavailable
from segue.outbox.deadline import deadline, watch
from segue.outbox.schema import Moment
from segue.outbox.search_path import keep_search_path

T = TypeVar("T")

#: Seconds that a connection may take, and after which the server gives a query up.
CONNECT_TIMEOUT = 5
QUERY_TIMEOUT = 60
#: When nobody has said anything by then, not even that the query was given up, the connection is dead.
_PATIENCE = timedelta(seconds=QUERY_TIMEOUT + 5)
#: SQLSTATE of `undefined_table` and `undefined_column`.
_NO_SCHEMA = frozenset(("42P01", "42703"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items, and the cursor of the next page; None: there is none."""

    items: Sequence[T]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSaga:
    """A row of the list; `overdue`: it should have moved by now."""

    row: SagaRow
    overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sagas or dead letters that have something in common."""

    key: str | None
    count: int
    oldest: datetime
    newest: datetime
    example: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpublished:
    """Messages that wait in the outbox."""

    count: int
    oldest: datetime | None


class Reads:
    """Read access to a coordinator's database. Methods may raise StoreUnavailable, or ConfigError (no schema)."""

    def __init__(self, url: str) -> None:
        self._url = parse_url(url)
        self._engine = _engine(self._url)
        watch(self._engine)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database, whatever is written meanwhile."""
        with translated(self._url), deadline(_PATIENCE), self._engine.connect() as connection, connection.begin():
            yield connection

    def now(self) -> datetime:
        """The database's clock, the judge of deadlines."""
        with self.snapshot() as connection:
            return database_now(connection)

    def sagas(self, wanted: SagaFilter, limit: int = 50, after: str | None = None) -> Page[ListedSaga]:
        """Sagas, newest first. Raises InvalidId for a cursor that is none."""
        position = _from_cursor(after) if after else None
        with self.snapshot() as connection:
            query = queries.list_sagas(wanted, database_now(connection), limit + 1, position)
            rows = connection.execute(query).all()
        items = [ListedSaga(row=saga_of(row._mapping), overdue=bool(row.overdue)) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next=_cursor(items[-1].row) if more else None)

    def begins_with(self, prefix: str, limit: int) -> list[SagaRow]:
        """Sagas whose ids begin so, newest first."""
        with self.snapshot() as connection:
            return [saga_of(row._mapping) for row in connection.execute(queries.begins_with(prefix, limit))]

    def all_sagas(self, wanted: SagaFilter, page: int = 500) -> Iterator[SagaRow]:
        """All of them, newest first, page by page."""
        after: str | None = None
        while True:
            found = self.sagas(wanted, page, after)
            yield from (item.row for item in found.items)
            if found.next is None:
                return
            after = found.next

    def count(self, wanted: SagaFilter) -> int:
        """How many sagas."""
        with self.snapshot() as connection:
            return int(connection.execute(queries.count_sagas(wanted, database_now(connection))).scalar_one())

    def groups(self, wanted: SagaFilter, by: GroupBy, limit: int = 50) -> list[Group]:
        """Sagas counted by what they have in common, the largest group first."""
        with self.snapshot() as connection:
            rows = connection.execute(queries.group_sagas(wanted, database_now(connection), by, limit)).all()
        return [_group(row) for row in rows]

    def saga(self, saga_id: str) -> SagaRow:
        """One saga. Raises NotFound."""
        with self.snapshot() as connection:
            return read_saga(connection, saga_id)

    def history(self, saga_id: str) -> list[EventRow]:
        """All transitions of one saga, of its earlier runs, too."""
        with self.snapshot() as connection:
            return read_history(connection, saga_id, all_runs=True)

    def unpublished(self, saga_id: str) -> Unpublished:
        """Messages of one saga that wait in the outbox."""
        return self._unpublished(queries.unpublished(saga_id))

    def outbox(self) -> Unpublished:
        """All messages that wait in the outbox."""
        return self._unpublished(queries.outbox_age())

    def _unpublished(self, query: Select[*tuple[Any, ...]]) -> Unpublished:
        with self.snapshot() as connection:
            row = connection.execute(query).one()
        return Unpublished(count=row[0], oldest=row.oldest)

    def dead_letters(
        self, wanted: DeadLetterFilter, limit: int = 50, after: str | None = None, *, whole: bool = True
    ) -> Page[DeadLetterRow]:
        """Dead letters, oldest first; unless `whole`, without what their records contain.

        Raises InvalidId for a cursor that is none.
        """
        if after and not (after.isascii() and after.isdigit() and len(after) < 19):
            raise InvalidId(f"{after!r:.40} is not a cursor of this list")
        with self.snapshot() as connection:
            found = read_dead_letters(connection, wanted, limit + 1, int(after) if after else None, whole=whole)
        items = found[:limit]
        return Page(items=items, next=str(items[-1].id) if len(found) > limit else None)

    def all_dead_letters(self, wanted: DeadLetterFilter, page: int = 200) -> Iterator[DeadLetterRow]:
        """All of them, oldest first, page by page, without what their records contain."""
        after: str | None = None
        while True:
            found = self.dead_letters(wanted, page, after, whole=False)
            yield from found.items
            if found.next is None:
                return
            after = found.next

    def dead_letter(self, number: int) -> DeadLetterRow:
        """One dead letter. Raises NotFound."""
        page = self.dead_letters(DeadLetterFilter(ids=(number,)), 1)
        if not page.items:
            raise NotFound(f"there is no dead letter {number}; `segue dlq ls` lists them")
        return page.items[0]

    def dead_letter_groups(self, wanted: DeadLetterFilter, by: DeadLetterGroupBy, limit: int = 50) -> list[Group]:
        """Dead letters counted by what they have in common, the largest group first."""
        with self.snapshot() as connection:
            rows = connection.execute(queries.group_dead_letters(wanted, by, limit)).all()
        return [_group(row) for row in rows]

    def pending(self, request_ids: Sequence[int]) -> set[int]:
        """Which of these operator requests are not dealt with yet."""
        with self.snapshot() as connection:
            return set(connection.execute(queries.pending_requests(list(request_ids))).scalars())

    def outcomes(self, request_ids: Sequence[int]) -> dict[int, AuditEntry]:
        """What became of these operator requests, by their id."""
        with self.snapshot() as connection:
            rows = connection.execute(queries.audits_of_requests(list(request_ids))).all()
        return {row.request_id: audit_of(row._mapping) for row in rows}

    def audit_head(self) -> Head | None:
        """The end of the audit as it is recorded; None before the first line."""
        with self.snapshot() as connection:
            row = connection.execute(queries.audit_end()).first()
        return None if row is None else Head(lines=row.lines, hash=row.hash, mac=row.mac)

    def audits(self, saga_id: str) -> list[AuditEntry]:
        """What people did to one saga."""
        with self.snapshot() as connection:
            return read_audits(connection, saga_id)

    def requests(self, saga_id: str) -> list[OperatorRequest]:
        """What people have asked for this saga and no coordinator has done yet."""
        with self.snapshot() as connection:
            return read_requests(connection, saga_id)


def database_now(connection: Connection) -> datetime:
    """The clock that deadlines go by; SQLite's is the machine's."""
    if connection.dialect.name == "sqlite":
        return SYSTEM_CLOCK.now()
    moment = connection.execute(select(func.current_timestamp(type_=Moment()))).scalar_one()
    assert isinstance(moment, datetime)
    return moment


def read_saga(connection: Connection, saga_id: str) -> SagaRow:
    """One saga, within a snapshot. Raises NotFound."""
    row = connection.execute(queries.one_saga(saga_id)).first()
    if row is None:
        raise NotFound(f"there is no saga {saga_id!r:.80}; {_instead(connection, saga_id)}")
    return saga_of(row._mapping)


def _instead(connection: Connection, saga_id: str) -> str:
    """What came for a saga that does not exist: its start may have been refused, a signal may be early."""
    wanted = DeadLetterFilter(states=("received", "parked", "dead"), saga_id=saga_id)
    rows = connection.execute(queries.list_dead_letters(wanted, 20, None, whole=True)).all()
    letters = [dead_letter_of(dict(row._mapping)) for row in rows]
    if not letters:
        return "`segue saga ls` lists them"
    refused = [letter for letter in letters if ("ce_sagaaction", b"start") in letter.record.headers]
    if refused:
        last = refused[-1]
        if last.state == "parked":
            return f"its start waits: {last.error_message}; `segue dlq show {last.id}` shows it"
        return (
            f"its start was refused ({last.reason}): {last.error_message}; `segue dlq show {last.id}` shows it, "
            f"`segue dlq replay {last.id}` tries it again"
        )
    first = letters[0]
    return f"what came for it is kept: `segue dlq show {first.id}` ({first.state}, {first.reason})"


def read_history(connection: Connection, saga_id: str, *, all_runs: bool = False) -> list[EventRow]:
    """The transitions of one saga, of its present run or of all, within a snapshot."""
    return [EventRow(**row._mapping) for row in connection.execute(queries.history(saga_id, all_runs=all_runs))]


def read_requests(connection: Connection, saga_id: str) -> list[OperatorRequest]:
    """What people have asked for one saga and no coordinator has done yet, within a snapshot."""
    return [OperatorRequest(**row._mapping) for row in connection.execute(queries.requests_of(saga_id))]


def read_heartbeats(connection: Connection, saga_id: str) -> dict[str, HeartbeatRow]:
    """What is kept of the signs of life of one saga's commands, within a snapshot."""
    rows = connection.execute(queries.heartbeats(saga_id))
    return {row.command_id: HeartbeatRow(**row._mapping) for row in rows}


def read_audits(connection: Connection, saga_id: str) -> list[AuditEntry]:
    """What people did to one saga, within a snapshot."""
    return [audit_of(row._mapping) for row in connection.execute(queries.audits_of_saga(saga_id))]


def read_dead_letters(
    connection: Connection, wanted: DeadLetterFilter, limit: int, after: int | None = None, *, whole: bool = True
) -> list[DeadLetterRow]:
    """The next dead letters, oldest first, within a snapshot; unless `whole`, without what their records contain."""
    rows = connection.execute(queries.list_dead_letters(wanted, limit, after, whole=whole))
    return [dead_letter_of(dict(row._mapping)) for row in rows]


def saga_of(columns: RowMapping) -> SagaRow:
    """The row as a value."""
    return SagaRow(**{name: columns[name] for name in SAGA_COLUMNS})


def audit_of(columns: RowMapping) -> AuditEntry:
    """The line as a value, without its hashes."""
    return AuditEntry(**{name: columns[name] for name in AuditEntry.__dataclass_fields__})


def parse_url(url: str) -> URL:
    """The URL of a database Segue can use. Raises ConfigError saying what is allowed, without the password."""
    expected = "expected postgresql+psycopg://user@host/database or sqlite:///path"
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ConfigError(f"coordinator.database is not the URL of a database: {expected}") from None
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise ConfigError(f"coordinator.database is {parsed.render_as_string()}: {expected}")
    if parsed.drivername == "postgresql":
        # SQLAlchemy's default driver is another one than ours.
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif parsed.drivername not in ("postgresql+psycopg", "sqlite", "sqlite+pysqlite"):
        kind, _, driver = parsed.drivername.partition("+")
        ours = "psycopg" if kind == "postgresql" else "Python's own"
        raise ConfigError(
            f"coordinator.database is {parsed.render_as_string()}: it names the driver {driver}, Segue's is {ours}; "
            f"write {kind}{'+psycopg' if kind == 'postgresql' else ''}://"
        )
    return parsed


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Errors of SQLAlchemy and its drivers as ours: what, where, what to do."""
    where = url.render_as_string()
    try:
        yield
    except (exc.OperationalError, exc.ProgrammingError) as error:
        if _schema_is_missing(error):
            raise ConfigError(
                f"the database {where} lacks Segue's tables, or has older ones; run `segue db upgrade`"
            ) from None
        reason = str(error.orig).strip().splitlines() or ["no reason given"]
        raise StoreUnavailable(
            f"cannot read the database {where}: {reason[0]}; is it running, is the URL right?"
        ) from None
    except exc.SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot read the database {where}: {error}") from None


def _schema_is_missing(error: exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _NO_SCHEMA or str(error.orig).startswith(
        ("no such table", "no such column")
    )


def check_exists(url: URL) -> None:
    """Raise ConfigError for a SQLite file that is not there: reading it would make an empty one."""
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise ConfigError(
            f"there is no database {url.render_as_string()} (in {Path.cwd()}); "
            "run `segue db upgrade` to make it, or set coordinator.database"
        )


def _engine(url: URL) -> Engine:
    check_exists(url)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args={"timeout": CONNECT_TIMEOUT})
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begun)
        return engine
    options = f"-c default_transaction_read_only=on -c statement_timeout={QUERY_TIMEOUT * 1000}"
    if "options" in url.query:
        # The URL's own, such as a search_path: ours would replace them.
        given = url.query["options"]
        options = f"{given if isinstance(given, str) else ' '.join(given)} {options}"
    try:
        return keep_search_path(
            create_engine(
                url,
                isolation_level="REPEATABLE READ",
                hide_parameters=True,
                pool_pre_ping=True,
                connect_args={"connect_timeout": CONNECT_TIMEOUT, "options": options},
            )
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{url.render_as_string()} needs the package {error.name}: pip install 'segue[postgres]'"
        ) from None


def _sqlite_connected(connection: Any, _record: Any) -> None:
    # The driver would begin no transaction for reading, and then two statements see two states of the database.
    connection.isolation_level = None
    connection.execute("PRAGMA query_only = ON")


def _sqlite_begun(connection: Connection) -> None:
    connection.execute(text("BEGIN"))


def _cursor(row: SagaRow) -> str:
    return urlsafe_b64encode(f"{to_micros(row.started_at)} {row.id}".encode()).decode()


def _from_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        micros, _, saga_id = urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        return from_micros(int(micros)), saga_id
    except (ValueError, OverflowError):
        raise InvalidId(f"{cursor!r:.40} is not a cursor of this list") from None


def _group(row: Row[Any]) -> Group:
    values = row._mapping
    return Group(
        key=values["key"],
        count=values["count"],
        oldest=values["oldest"],
        newest=values["newest"],
        example=str(values["example"]),
        message=values.get("message") or "",
    )
