"""A connection on which the database has fallen silent: every call of a service ends, and its commands are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from segue import outbox
from segue.activities import Context, LoopOptions, Worker, WorkerOptions
from segue.errors import StoreUnavailable
from segue.outbox import trips
from segue.outbox.deadline import deadline, watch
from segue.outbox.sql import SqlOutboxStore
from segue.topics.envelope import parse_reply
from segue.topics.memory import MemoryBroker
from tests.real.proxy import Proxy
from tests.unit.activities.kit import REPLIES, Base, Booking, Charged, Order, charge, command, record_of

SHORT = timedelta(milliseconds=400)
#: Statement of the server that takes longer than that.
LONG = text("SELECT pg_sleep(1)")
#: Seconds; a bound, not a measurement.
PATIENCE = 60.0
COMMANDS = 5


@dataclass
class Place:
    """A service's database, and a way to it that falls silent once: from a moment named by a test to the first cut."""

    near: Engine
    url: str
    proxy: Proxy
    patch: pytest.MonkeyPatch
    fallen: bool = False
    cuts: int = 0

    def fall_silent(self) -> None:
        if not self.fallen:
            self.fallen = True
            self.proxy.mode = "swallow"

    def heal(self, _context: object) -> None:
        self.cuts += 1
        self.proxy.mode = "pass"

    def far(self, **options: Any) -> Engine:
        return self.hear(create_engine(self.url, **options))

    def hear(self, engine: Engine) -> Engine:
        """Heals with the first error of this engine, or when a connection of it is thrown away."""
        event.listen(engine, "handle_error", self.heal)
        event.listen(engine, "invalidate", lambda *_: self.heal(None))
        return engine

    def bookings(self) -> int:
        with self.near.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(Booking)).scalar_one())


@pytest.fixture
def place(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    near = create_engine(postgres_url)
    Base.metadata.create_all(near)
    outbox.create_all(near)
    url = make_url(postgres_url)
    with Proxy((str(url.host), int(url.port or 5432))) as proxy:
        far = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        yield Place(near, far, proxy, monkeypatch)
    near.dispose()


# --- when the silence begins


def at_begin(place: Place, engine: Engine) -> None:
    event.listen(engine, "begin", lambda _connection: place.fall_silent())


def at_fence(place: Place, engine: Engine) -> None:
    _before(place, engine, "inbox")
    ask = trips.ask

    def asking(*arguments: Any) -> Any:
        place.fall_silent()
        return ask(*arguments)

    # Through psycopg's synchronous driver it goes past SQLAlchemy's cursor.
    place.patch.setattr(trips, "ask", asking)


def in_handler(place: Place, engine: Engine) -> None:
    _before(place, engine, "INSERT INTO booking")


def at_commit(place: Place, engine: Engine) -> None:
    def committing(connection: Any) -> None:
        if connection.info.pop("booked", False):
            place.fall_silent()

    event.listen(engine, "before_cursor_execute", lambda connection, _, statement, *__: _note(connection, statement))
    event.listen(engine, "commit", committing)


def at_ping(place: Place, engine: Engine) -> None:
    event.listen(engine, "checkin", lambda *_: place.fall_silent())


def _before(place: Place, engine: Engine, words: str) -> None:
    def executing(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if words in statement:
            place.fall_silent()

    event.listen(engine, "before_cursor_execute", executing)


def _note(connection: Any, statement: str) -> None:
    connection.info["booked"] = connection.info.get("booked", False) or "booking" in statement


MOMENTS = [at_begin, at_fence, in_handler, at_commit, at_ping]
Moment = Callable[[Place, Engine], None]


# --- workers


def answers(worker: Worker[Any]) -> list[str]:
    """Run the worker until it has told Kafka that all commands are done; its answers."""
    broker = MemoryBroker()
    for number in range(COMMANDS):
        broker.append(record_of(command(f"o-{number}")))
    stop = threading.Event()
    give_up = threading.Timer(PATIENCE, stop.set)
    give_up.start()
    running = threading.Thread(
        target=worker.run, kwargs={"consumer": broker.consumer("payments"), "producer": broker.producer(), "stop": stop}
    )
    running.start()
    while running.is_alive():
        if sum(broker.committed("payments").values()) == COMMANDS:
            stop.set()
        running.join(0.02)
    give_up.cancel()
    return [parse_reply(record).outcome for record in broker.records(REPLIES)]


def options(group: int = 100) -> WorkerOptions:
    return WorkerOptions(call_timeout=SHORT, loop=LoopOptions(group=group, commit_interval=0.05))


@pytest.mark.parametrize("group", [1, 100])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_goes_on_wherever_its_database_falls_silent(place: Place, moment: Moment, group: int) -> None:
    engine = place.far(pool_pre_ping=True)
    worker = Worker("payments", sessions=sessionmaker(engine), options=options(group))

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        ctx.session.flush()
        return Charged(ctx.idempotency_key)

    moment(place, engine)
    assert answers(worker) == ["success"] * COMMANDS
    assert place.cuts
    assert place.bookings() == COMMANDS
    engine.dispose()


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_async_worker_goes_on_wherever_its_database_falls_silent(place: Place, moment: Moment) -> None:
    engine = create_async_engine(place.url, pool_pre_ping=True)
    worker = Worker("payments", sessions=async_sessionmaker(engine), options=options())

    @worker.handle(charge)
    async def charge_order(ctx: Context[AsyncSession], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        await ctx.session.flush()
        return Charged(ctx.idempotency_key)

    moment(place, place.hear(engine.sync_engine))
    assert answers(worker) == ["success"] * COMMANDS
    assert place.cuts
    assert place.bookings() == COMMANDS


def test_the_time_that_a_handler_takes_between_two_calls_does_not_count(place: Place) -> None:
    engine = place.far()
    worker = Worker("payments", sessions=sessionmaker(engine), options=options())

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        ctx.session.flush()
        with place.near.connect() as elsewhere:  # an engine that is not the worker's
            elsewhere.execute(LONG)
        return Charged(ctx.idempotency_key)

    assert answers(worker) == ["success"] * COMMANDS
    assert place.cuts == 0
    assert place.bookings() == COMMANDS
    engine.dispose()


# --- the deadline by itself


def test_a_call_that_takes_too_long_says_why_it_failed(place: Place) -> None:
    engine = place.far()
    watch(engine)
    watch(engine)
    said = r"did not answer within 0\.4 s"
    with pytest.raises(OperationalError, match=said) as raised, deadline(SHORT), engine.connect() as connection:
        connection.execute(LONG)
    assert raised.value.connection_invalidated
    engine.dispose()


def test_only_calls_within_a_deadline_are_cut(place: Place) -> None:
    engine = place.far()
    watch(engine)
    with engine.connect() as connection:
        with deadline(SHORT):
            connection.execute(text("SELECT 1"))
        connection.execute(LONG)
    assert place.cuts == 0
    engine.dispose()


def test_a_connection_from_before_the_watch_is_watched_too(place: Place) -> None:
    engine = place.far(pool_size=1)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    watch(engine)
    with pytest.raises(OperationalError, match="did not answer"), deadline(SHORT), engine.connect() as connection:
        connection.execute(LONG)
    engine.dispose()


def test_a_relay_goes_on_after_its_database_fell_silent(place: Place) -> None:
    engine = place.far()
    store = SqlOutboxStore(engine, call_timeout=SHORT)
    store.lease("one", timedelta(seconds=10))
    place.fall_silent()
    with pytest.raises(StoreUnavailable, match="did not answer"):
        store.lease("one", timedelta(seconds=10))
    assert len(store.lease("one", timedelta(seconds=10))) == 64
    engine.dispose()


def test_a_connection_attempt_to_a_database_that_is_silent_ends(place: Place) -> None:
    engine = place.far()
    store = SqlOutboxStore(engine, call_timeout=SHORT)
    place.fall_silent()
    with pytest.raises(StoreUnavailable, match="timeout"):
        store.lease("one", timedelta(seconds=10))
    engine.dispose()
