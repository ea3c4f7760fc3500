"""What a service's database must do, on every database that is supported: fence, outbox, lanes, workers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from segue import outbox
from segue.activities import Context, Undo, Worker
from segue.activities.runner import ThreadRunner
from segue.errors import StoreUnavailable
from segue.outbox import postgres, sql
from segue.outbox.faults import is_transient_database
from segue.outbox.fences import SqlServiceRows
from segue.outbox.group import StagedRows
from segue.outbox.inbox import lock_fence
from segue.outbox.relay import Relay
from segue.outbox.schema import inbox_table, outbox_table
from segue.outbox.sql import SqlOutboxStore, database_now, message_of_row
from segue.outbox.store import Exclusion
from segue.topics.broker import Acked, Outgoing
from segue.topics.envelope import parse_reply
from segue.topics.memory import MemoryBroker, MemoryProducer
from tests.unit.activities.kit import (
    DEAD,
    REPLIES,
    Base,
    Booking,
    Charged,
    Order,
    Service,
    charge,
    command,
    record_of,
    refund,
)


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    outbox.create_all(engine)
    yield engine
    engine.dispose()


def count(engine: Engine, table: Any) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def add(engine: Engine, *keys: str) -> None:
    with Session(engine) as session:
        for key in keys:
            outbox.add(session, "events", key.encode(), key=key, type="happened")
        session.commit()


class StopAfter(MemoryProducer):
    """Sets an event once so many records were acknowledged."""

    def __init__(self, broker: MemoryBroker, expected: int, stop: threading.Event) -> None:
        super().__init__(broker)
        self._left = expected
        self._stop = stop

    def send(self, record: Outgoing, acked: Acked) -> None:
        def counted(error: Exception | None) -> None:
            acked(error)
            self._left -= 1
            if self._left <= 0:
                self._stop.set()

        super().send(record, counted)


def run(worker: Worker[Any], broker: MemoryBroker, expected: int) -> list[str]:
    """Run the worker until it has sent `expected` replies; their outcomes."""
    stop = threading.Event()
    watchdog = threading.Timer(60, stop.set)
    watchdog.start()
    worker.run(consumer=broker.consumer("payments"), producer=StopAfter(broker, expected, stop), stop=stop)
    watchdog.cancel()
    return [parse_reply(record).outcome for record in broker.records(REPLIES)]


def sync_worker(engine: Engine) -> Worker[Session]:
    worker = Worker("payments", sessions=sessionmaker(engine))

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        return Charged(ctx.idempotency_key)

    @worker.handle(refund)
    def refund_order(ctx: Context[Session], undo: Undo[Order, Charged]) -> None:
        ctx.session.add(Booking(order=undo.input.id, amount=-undo.input.total))

    return worker


def test_messages_survive_the_database_unchanged(engine: Engine) -> None:
    with Session(engine) as session:
        id = outbox.add(session, "t", b"\x00\xff", key="ü", type="x", headers={"h": "ä"})
        session.commit()
    store = SqlOutboxStore(engine)
    store.lease("one", timedelta(seconds=10))
    [row] = store.load("one", 10, memory_first_for=None, excluded=Exclusion())
    with engine.connect() as connection:
        message = message_of_row(connection.execute(select(outbox_table)).mappings().one())
    assert (message.id, message.payload, message.aggregateid) == (id, b"\x00\xff", "ü")
    assert message.headers == {"h": "ä"}
    assert message.created_at.tzinfo is not None
    assert row.record == message.outgoing(), "the short way gives the same bytes"


def test_only_the_holder_of_a_lane_loads_it_and_excluded_keys_stay(engine: Engine) -> None:
    store = SqlOutboxStore(engine)
    add(engine, "a", "b", "c")
    assert len(store.lease("one", timedelta(seconds=30))) == 64
    assert store.lease("two", timedelta(seconds=30)) == {}
    none: Any = {"memory_first_for": None}
    assert store.load("two", 10, excluded=Exclusion(), **none) == []
    keys = [row.key for row in store.load("one", 10, excluded=Exclusion(lines=[("events", "b")]), **none)]
    assert keys == ["a", "c"]
    assert store.load("one", 10, excluded=Exclusion(topics=["events"]), **none) == []
    assert len(store.lease("one", timedelta(seconds=30))) == 32
    assert len(store.lease("two", timedelta(seconds=30))) == 32


def test_rows_that_are_held_do_not_count_towards_those_that_are_loaded(engine: Engine) -> None:
    store = SqlOutboxStore(engine)
    store.lease("one", timedelta(seconds=30))
    add(engine, *(f"k{n}" for n in range(6)))
    held = {row.seq for row in store.load("one", 3, memory_first_for=None, excluded=Exclusion())}
    more = store.load("one", 2, memory_first_for=None, excluded=Exclusion(held=held))
    assert [row.key for row in more if row.seq not in held] == ["k3", "k4"]


def test_a_row_that_makes_no_sense_is_the_only_one_at_fault(engine: Engine) -> None:
    store = SqlOutboxStore(engine)
    store.lease("one", timedelta(seconds=30))
    add(engine, "a", "b", "c")
    with engine.begin() as connection:
        connection.execute(outbox_table.update().where(outbox_table.c.aggregateid == "b").values(headers=["no object"]))
    found = store.load("one", 10, memory_first_for=None, excluded=Exclusion())
    assert [(row.key, row.record is None) for row in found] == [("a", False), ("b", True), ("c", False)]


def test_a_relay_publishes_everything_once_and_in_order(engine: Engine) -> None:
    broker = MemoryBroker()
    keys = [f"k{n % 10}" for n in range(300)]
    add(engine, *keys)
    relay = Relay(engine, broker.producer())
    while count(engine, outbox_table):
        relay.step()
    relay.shut()
    assert len(broker.records("events")) == 300


def test_a_page_ends_where_its_payloads_are_more_than_may_be_held_and_all_of_them_arrive(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (postgres, sql):
        monkeypatch.setattr(module, "PAGE_BYTES", 100_000)
    values = [b"1", b"2" * 40_000, None, b"3" * 40_000, b"4" * 40_000, b"5", b"6" * 200_000, b"", b"7" * 15_000]
    with Session(engine) as session:
        for value in values:
            outbox.add(session, "events", value, key="k", type="happened")
        session.commit()
    store, broker = SqlOutboxStore(engine), MemoryBroker()
    store.lease("one", timedelta(minutes=1))
    page = store.load("one", 500, memory_first_for=None, excluded=Exclusion())
    held = [b"" if row.record is None else row.record.value for row in page]
    assert 3 <= len(page) < 6, "as many as fit, and at most one more"
    assert held == values[: len(page)]
    store.release("one")
    relay = Relay(engine, broker.producer())
    while count(engine, outbox_table):
        relay.step()
    relay.shut()
    assert [record.value for record in broker.records("events")] == values


def test_the_database_clock_is_utc(engine: Engine) -> None:
    with engine.connect() as connection:
        assert database_now(connection).utcoffset() == timedelta(0)


def test_a_fence_row_is_held_by_one_transaction_at_a_time(engine: Engine) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        with engine.begin() as connection:
            entered.set()
            fence, _ = lock_fence(SqlServiceRows(connection), "payments", "o-1/s")
            order.append(("second", fence.new))

    thread = threading.Thread(target=second)
    with engine.begin() as connection:
        fence, _ = lock_fence(SqlServiceRows(connection), "payments", "o-1/s")
        thread.start()
        assert entered.wait(10)
        order.append(("first", fence.new))
    thread.join(10)
    assert order == [("first", True), ("second", False)]


def test_a_refused_write_and_an_unreachable_database_are_told_apart(url: str) -> None:
    engine = create_engine(url.replace("5432", "1") if "sqlite" in url else "postgresql+psycopg://x@127.0.0.1:1/x")
    if "sqlite" in url:
        engine = create_engine("sqlite:////nonexistent/dir/file.sqlite")
    with pytest.raises((StoreUnavailable, Exception)) as raised:
        SqlOutboxStore(engine).delete([1])
    assert "postgres" not in url or isinstance(raised.value, StoreUnavailable)
    engine.dispose()


def test_a_worker_with_threads_answers_everything_once(engine: Engine) -> None:
    broker = MemoryBroker()
    for n in range(40):
        broker.append(record_of(command(f"o-{n}")))
        broker.append(record_of(command(f"o-{n}")))
    outcomes = run(sync_worker(engine), broker, 80)
    assert outcomes == ["success"] * 80
    assert count(engine, Booking.__table__) == 40
    assert count(engine, outbox_table) == 0
    assert sum(broker.committed("payments").values()) == 80


def test_an_async_worker_answers_everything_once(url: str, engine: Engine) -> None:
    if engine.dialect.name == "mysql":
        return  # none of its async drivers is among the extras
    async_engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    worker = Worker("payments", sessions=async_sessionmaker(async_engine))

    @worker.handle(charge)
    async def charge_order(ctx: Context[AsyncSession], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        await ctx.session.flush()
        found = await ctx.session.scalar(select(func.count()).where(Booking.order == order.id))
        assert found == 1
        return Charged(ctx.idempotency_key)

    broker = MemoryBroker()
    for n in range(20):
        broker.append(record_of(command(f"o-{n}")))
        broker.append(record_of(command(f"o-{n}")))
    assert run(worker, broker, 40) == ["success"] * 40
    assert count(engine, Booking.__table__) == 20
    assert count(engine, inbox_table) == 20


def test_the_same_command_delivered_to_two_workers_at_once_has_one_effect(engine: Engine) -> None:
    broker = MemoryBroker()
    runners = [ThreadRunner(sessionmaker(engine), 4) for _ in range(2)]
    worker = sync_worker(engine)
    loops = [worker.loop(broker.consumer(f"group-{n}"), broker.producer(), runner=runners[n]) for n in range(2)]
    for n in range(15):
        broker.append(record_of(command(f"o-{n}")))
        broker.append(record_of(command(f"o-{n}", activity=refund)))
        broker.append(record_of(command(f"p-{n}", activity=refund)))
        broker.append(record_of(command(f"p-{n}")))
    for loop in loops:
        loop.start()
        loop.step()
    while any(loop.busy for loop in loops):
        for loop, runner in zip(loops, runners, strict=True):
            if not loop.step():
                runner.wait(0.01)
    for loop, runner in zip(loops, runners, strict=True):
        loop.drain(5)
        loop.shut()
        runner.close()
    with Session(engine) as session:
        charged = session.scalars(select(Booking.amount).where(Booking.order.like("o-%"))).all()
        never = session.scalars(select(Booking.amount).where(Booking.order.like("p-%"))).all()
    assert (len(charged), sum(charged)) == (30, 0)
    assert never == []


def test_a_groups_rows_are_locked_decided_and_written_at_once(engine: Engine) -> None:
    with engine.begin() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "known")
    with engine.begin() as connection:
        staged = StagedRows(SqlServiceRows(connection), "payments", ["new", "known", "unasked", "new", "forgotten"])
        assert [staged.lock_inbox_row("payments", key)[1] for key in ("new", "new", "known")] == [True, False, False]
        staged.update_inbox_row("payments", "new", {"attempt": 1, "invoke_outcome": "success", "invoke_reply": b"\\"})
        staged.update_inbox_row("payments", "new", {"compensate_attempt": 1, "tombstone": True})
        staged.update_inbox_row("payments", "known", {"attempt": 3, "invoke_id": 'a"b\\c', "details": b"{}"})
        assert staged.lock_inbox_row("payments", "new")[0]["invoke_outcome"] == "success"
        staged.lock_inbox_row("payments", "forgotten")
        staged.delete_inbox_row("payments", "forgotten")
        staged.write()
    with engine.connect() as connection:
        rows = {row.saga_key: row for row in connection.execute(select(inbox_table))}
    assert sorted(rows) == ["known", "new"], "what was not asked for leaves no row"
    new, known = rows["new"], rows["known"]
    assert (new.attempt, new.invoke_outcome, new.invoke_reply) == (1, "success", b"\\")
    assert (new.compensate_attempt, new.tombstone) == (1, True)
    assert (known.attempt, known.invoke_id, known.details) == (3, 'a"b\\c', b"{}")
    assert known.updated_at >= known.created_at


def test_a_group_gives_way_where_somebody_holds_one_of_its_rows(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    outbox.create_all(engine)
    with engine.begin() as connection:
        SqlServiceRows(connection).lock_inbox_row("payments", "b")
    with engine.connect() as holder, engine.connect() as group:
        SqlServiceRows(holder).lock_inbox_row("payments", "b")
        with pytest.raises(DBAPIError) as caught:
            SqlServiceRows(group).lock_inbox_rows("payments", ["a", "b"])
        assert is_transient_database(caught.value)
        group.rollback()
        assert group.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0", "its impatience ends with it"
        holder.rollback()
    engine.dispose()


@pytest.mark.parametrize("committed", [True, False])
def test_of_two_who_find_a_row_missing_the_second_to_write_it_gives_way(postgres_url: str, committed: bool) -> None:
    engine = create_engine(postgres_url)
    outbox.create_all(engine)
    answer = {"attempt": 1, "invoke_id": "c", "invoke_outcome": "success", "invoke_reply": b"first"}
    with engine.connect() as first, engine.connect() as second:
        groups = [StagedRows(SqlServiceRows(c), "payments", ["a", "b"]) for c in (first, second)]
        for staged, key in zip(groups, ("b", "a"), strict=True):
            assert staged.lock_inbox_row("payments", key)[1]
            assert staged.lock_inbox_row("payments", "b")[1] is (key == "a")
            staged.update_inbox_row("payments", "b", answer)
        groups[0].write()
        if committed:
            first.commit()
        with pytest.raises((DBAPIError, StoreUnavailable)) as caught:
            groups[1].write()
        assert is_transient_database(caught.value)
    engine.dispose()


def test_hundreds_of_commands_and_their_duplicates_in_groups_have_one_effect_each(engine: Engine) -> None:
    broker = MemoryBroker()
    orders = [f"o-{number}" for number in range(300)]
    for order in orders:
        for _ in range(2):
            broker.append(record_of(command(order)))
        broker.append(record_of(command(order, activity=refund)))
    outcomes = run(sync_worker(engine), broker, 900)
    assert (len(outcomes), set(outcomes)) == (900, {"success"})
    assert count(engine, Booking.__table__) == 600
    assert count(engine, inbox_table) == 300


def test_commands_wait_while_the_role_of_a_worker_lacks_a_privilege(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        return  # SQLite knows no roles
    role = f"segue_test_role_{engine.url.database}"
    service = Service(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"REVOKE UPDATE ON inbox FROM {role}")
    limited = create_engine(engine.url.set(username=role))
    try:
        service.consumer.close()
        service.sessions = sessionmaker(limited)
        service.start()
        service.send(command("o-1"), command("o-2"))
        service.settle(30, 1.0)
        assert (service.outcomes(), service.broker.records(DEAD)) == ([], [])
        with engine.begin() as connection:
            connection.exec_driver_sql(f"GRANT UPDATE ON inbox TO {role}")
        service.settle(40, 1.0)
        assert service.outcomes() == ["success", "success"]
    finally:
        limited.dispose()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
