"""What goes to PostgreSQL with BEGIN or COMMIT is in the transaction that SQLAlchemy knows of, and in no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from segue.activities import Context, ReplyLater, Worker, reply
from segue.activities.runner import AsyncRunner, Runner, ThreadRunner
from segue.errors import RejectedWrite, StoreUnavailable
from segue.outbox import trips
from segue.outbox.faults import is_transient_database
from segue.outbox.fences import SqlServiceRows
from segue.outbox.inbox import lock_fence
from segue.outbox.pipeline import Call, Pipeline
from segue.topics.memory import MemoryBroker
from tests.real.proxy import Mode, Proxy
from tests.unit.activities.kit import Charged, Order, charge, command, record_of

ATTEMPT = "SELECT attempt FROM inbox WHERE saga_key = %s"


def attempts(engine: Engine, key: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(ATTEMPT, (key,)).scalars())


@contextmanager
def another(engine: Engine, **options: Any) -> Iterator[Engine]:
    """Another engine for the same database."""
    other = create_engine(engine.url, **options)
    try:
        yield other
    finally:
        other.dispose()


def test_what_was_put_off_is_written_with_the_commit(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
    assert attempts(engine, "a") == [3]


def test_what_a_rolled_back_transaction_has_put_off_is_not_written_by_the_next_one(engine: Engine) -> None:
    with engine.begin() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "a")
    with engine.connect() as connection:
        SqlServiceRows(connection, with_commit=True).update_inbox_row("payments", "a", {"attempt": 3})
        connection.rollback()
        connection.execute(text("SELECT 1"))
        connection.commit()
    with engine.connect() as connection:
        SqlServiceRows(connection, with_commit=True).update_inbox_row("payments", "a", {"attempt": 4})
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert attempts(engine, "a") == [0]


def test_who_looks_again_sees_what_was_put_off(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
        rows.update_inbox_row("payments", "a", {"invoke_id": "c"})
        row, new, _ = rows.lock_inbox_row("payments", "a")
        assert (row["attempt"], row["invoke_id"], new) == (3, "c", False)


def test_a_write_that_fails_takes_the_whole_transaction_back(engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("CREATE TABLE effect AS SELECT 1 AS x"))
        trips.put_off(session.connection(), "SELECT 1 / %s::int", (0,))
        with pytest.raises(DBAPIError, match="division by zero"):
            session.commit()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('effect')")).scalar_one() is None


def test_a_question_sees_what_was_put_off_before_it(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
        assert trips.ask(connection, ATTEMPT, ("a",)) == [(3,)]


def test_what_is_put_off_is_written_in_its_order(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        for attempt in (3, 4, 5):
            rows.update_inbox_row("payments", "a", {"attempt": attempt})
    assert attempts(engine, "a") == [5]


def test_what_is_asked_first_is_in_the_transaction_already(engine: Engine) -> None:
    with engine.connect() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "a")
        connection.rollback()
    assert attempts(engine, "a") == []


def test_after_a_write_that_failed_the_same_connection_begins_anew(engine: Engine) -> None:
    with engine.connect() as connection:
        trips.put_off(connection, "SELECT 1 / %s::int", (0,))
        with pytest.raises(DBAPIError, match="division by zero") as caught:
            connection.commit()
        assert not caught.value.connection_invalidated
        connection.rollback()  # SQLAlchemy does nothing here: for it the transaction is over
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
        connection.commit()
    assert attempts(engine, "a") == [3]


def write_one(engine: Engine, proxy: Proxy, how: Mode) -> None:
    """Write a fence row, and another thing with COMMIT; from then on the proxy does its worst."""
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
        proxy.mode = how


def test_a_commit_whose_answer_is_lost_is_neither_done_nor_refused(
    engine: Engine, far_engine: Engine, proxy: Proxy
) -> None:
    with pytest.raises(DBAPIError) as caught:
        write_one(far_engine, proxy, "commit")
    assert (caught.value.connection_invalidated, is_transient_database(caught.value)) == (True, True)
    proxy.mode = "pass"
    assert attempts(far_engine, "a") == [3], "on another connection; and the commit had happened"


def test_a_server_that_dies_before_the_last_trip_has_written_nothing_and_is_asked_anew(engine: Engine) -> None:
    def write(kill: Callable[[int], object]) -> None:
        with engine.begin() as connection:
            rows = SqlServiceRows(connection, with_commit=True)
            rows.lock_inbox_row("payments", "a")
            server = connection.execute(select(func.pg_backend_pid())).scalar_one()
            rows.update_inbox_row("payments", "a", {"attempt": 3})
            kill(server)

    with another(engine) as other:

        def kill(server: int) -> None:
            with other.connect() as connection:
                connection.execute(select(func.pg_terminate_backend(server, 10_000)))

        with pytest.raises(DBAPIError) as caught:
            write(kill)
        assert is_transient_database(caught.value)
        assert attempts(other, "a") == []
    write(lambda server: None)
    assert attempts(engine, "a") == [3]


def test_a_server_that_forgot_the_statements_costs_one_more_try(engine: Engine) -> None:
    for key, forgets in (("a", False), ("b", True), ("c", False)):
        with engine.connect() as connection:
            if forgets:
                connection.execute(text("DEALLOCATE ALL"))
                with pytest.raises(StoreUnavailable) as caught:
                    SqlServiceRows(connection).lock_inbox_row("payments", key)
                assert is_transient_database(caught.value)
                continue
            SqlServiceRows(connection).lock_inbox_row("payments", key)
            connection.commit()
    assert (attempts(engine, "a"), attempts(engine, "b"), attempts(engine, "c")) == ([0], [], [0])


def test_a_column_that_a_migration_widens_costs_one_more_try(engine: Engine) -> None:
    with engine.begin() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "a")
        SqlServiceRows(connection).lock_inbox_row("payments", "a")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE inbox ALTER COLUMN invoke_outcome TYPE text"))
    with engine.connect() as connection, pytest.raises(StoreUnavailable) as caught:
        SqlServiceRows(connection).lock_inbox_row("payments", "a")
    assert is_transient_database(caught.value)
    with engine.connect() as connection:
        assert not SqlServiceRows(connection).lock_inbox_row("payments", "a")[1]


@pytest.mark.parametrize("ending", ["savepoint", "transaction"])
def test_a_driver_that_drops_all_statements_at_a_rollback_costs_nothing(engine: Engine, ending: str) -> None:
    with engine.connect() as connection:
        for _ in range(7):  # from the sixth time on psycopg has prepared it
            connection.exec_driver_sql("SELECT 1")
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 1})
        connection.commit()
        rows.lock_inbox_row("payments", "a")
        if ending == "savepoint":
            connection.begin_nested().rollback()
        else:
            connection.rollback()
            rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 2})
        connection.commit()
    assert attempts(engine, "a") == [2]


@pytest.mark.parametrize(
    "options",
    [
        {"isolation_level": "SERIALIZABLE"},
        {"connect_args": {"prepare_threshold": None}},
    ],
    ids=str,
)
def test_who_wants_another_beginning_or_nothing_prepared_is_left_to_the_driver(
    engine: Engine, options: dict[str, Any]
) -> None:
    engine.dispose()
    with another(engine, **options) as other, other.begin() as connection:
        assert not trips.fit(connection)
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"attempt": 3})
        level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()
    assert level == options.get("isolation_level", "read committed").lower()
    assert prepared == 0
    assert attempts(engine, "a") == [3]


def test_the_server_plans_the_statements_of_a_lone_command_once_and_for_all(engine: Engine) -> None:
    for number in range(12):
        with engine.begin() as connection:
            rows = SqlServiceRows(connection, with_commit=True)
            rows.lock_inbox_row("payments", f"o-{number}")
            values = {"attempt": 1, "invoke_id": "c", "invoke_outcome": "success", "invoke_reply": b"r"}
            rows.update_inbox_row("payments", f"o-{number}", values)
    with engine.connect() as connection:
        plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%%inbox%%'"
        made = [tuple(row) for row in connection.exec_driver_sql(plans)]
    assert made == [(7, 5), (7, 5)]  # the first five are for comparison


def test_a_change_of_a_lone_row_keeps_what_it_does_not_name(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = SqlServiceRows(connection, with_commit=True)
        rows.lock_inbox_row("payments", "a")
        rows.update_inbox_row("payments", "a", {"compensate_attempt": 2, "tombstone": True, "details": b"d"})
    with engine.begin() as connection:
        created = connection.exec_driver_sql("SELECT created_at FROM inbox").scalar()
        SqlServiceRows(connection, with_commit=True).update_inbox_row("payments", "a", {"attempt": 3, "details": None})
    with engine.begin() as connection:
        row, new, _ = SqlServiceRows(connection).lock_inbox_row("payments", "a")
        assert (row["attempt"], row["compensate_attempt"], row["tombstone"], row["details"]) == (3, 2, True, None)
        assert not new
        stamps = connection.exec_driver_sql("SELECT created_at, updated_at > created_at FROM inbox").one()
        assert tuple(stamps) == (created, True)


@pytest.mark.parametrize("with_commit", [False, True])
def test_a_text_with_nul_is_refused_before_it_is_sent(engine: Engine, with_commit: bool) -> None:
    with engine.connect() as connection:
        rows = SqlServiceRows(connection, with_commit=with_commit)
        rows.lock_inbox_row("payments", "a")
        with pytest.raises(RejectedWrite):
            rows.update_inbox_row("payments", "a", {"invoke_id": "c\x00"})
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_a_lone_command_takes_two_round_trips(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []
    run = Pipeline.run

    def counted(self: Pipeline, calls: list[Call]) -> Any:
        made.append([call[0].split()[0] for call in calls])
        return run(self, calls)

    monkeypatch.setattr(Pipeline, "run", counted)
    sessions = sessionmaker(engine)
    worker = Worker("payments", sessions)

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        return Charged(ctx.idempotency_key)

    handle_one(worker, ThreadRunner(sessions, 1))
    assert made == [["BEGIN", "INSERT"], ["INSERT", "COMMIT"]]


def handle_one(worker: Worker[Any], runner: Runner) -> None:
    """Let the worker handle one command to charge order o-1."""
    broker = MemoryBroker()
    broker.append(record_of(command("o-1")))
    loop = worker.loop(broker.consumer("payments"), broker.producer(), runner=runner)
    loop.start()
    loop.step()
    while loop.busy:
        if not loop.step():
            runner.wait(0.01)
    loop.drain(5)
    loop.shut()
    runner.close()


def test_an_event_loop_never_waits_in_a_pipeline(postgres_url: str, engine: Engine, monkeypatch: Any) -> None:
    def blocked(*_: Any) -> Any:
        raise AssertionError("the event loop, with all that runs on it, would wait here")

    monkeypatch.setattr(Pipeline, "run", blocked)
    sessions = async_sessionmaker(create_async_engine(postgres_url))
    worker = Worker("payments", sessions)

    @worker.handle(charge)
    async def charge_order(ctx: Context[AsyncSession], order: Order) -> Charged:
        return Charged(ctx.idempotency_key)

    handle_one(worker, AsyncRunner(sessions))
    with engine.connect() as connection:
        answered = connection.exec_driver_sql("SELECT invoke_outcome FROM inbox").scalars().all()
    assert answered == ["success"]


def test_an_answer_goes_with_the_savepoint_in_which_it_was_given(engine: Engine) -> None:
    sessions, tokens = sessionmaker(engine), list[str]()
    worker = Worker("payments", sessions)

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        tokens.append(ctx.token)
        raise ReplyLater

    handle_one(worker, ThreadRunner(sessions, 1))
    with sessions.begin() as session:
        savepoint = session.begin_nested()
        reply(session, tokens[0], Charged("c-1"))
        savepoint.rollback()
    with engine.begin() as connection:
        fence, _ = lock_fence(SqlServiceRows(connection), "payments", tokens[0].partition("/invoke/")[2])
    assert fence.invoke.outcome == "pending"


def test_what_a_two_phase_commit_has_to_write_is_written_before_it_is_prepared(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.begin_twophase()
        assert not trips.fit(connection)


def test_texts_in_another_encoding_are_left_to_the_driver(engine: Engine) -> None:
    options = {"client_encoding": "LATIN1"}
    with another(engine, connect_args=options) as other, other.begin() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "\u00fc")
    assert attempts(engine, "\u00fc") == [0]
