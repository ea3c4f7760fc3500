"""A service with a database, a broker in memory and a clock that only tests move; drives the worker's real loop."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Engine, String, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from segue import outbox
from segue.activities import Activity, CommandLoop, LoopOptions, Undo, Worker, WorkerOptions
from segue.activities.runner import InlineRunner, SyncDesk
from segue.clock import fresh_id
from segue.ids import command_id, saga_key
from segue.outbox.schema import inbox_table, outbox_table
from segue.topics.broker import Outgoing, Record
from segue.topics.envelope import Command, Reply, parse_reply
from segue.topics.memory import MemoryBroker

COORDINATOR = "test"
REPLIES = "test.replies"
COMMANDS = "payments.commands"
DEAD = "payments.dlq"


class Killed(BaseException):
    """The process dies here: nothing may catch this."""


class Base(DeclarativeBase):
    pass


class Booking(Base):
    """The effect of a handler: one row for each time it ran, +1 for a charge, -1 for a refund."""

    __tablename__ = "booking"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[str] = mapped_column(String(255))
    amount: Mapped[int]


@dataclass(frozen=True)
class Order:
    id: str
    total: int = 1


@dataclass(frozen=True)
class Charged:
    charge_id: str


charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")


class FakeClock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.seconds


def command(
    order: str = "o-1",
    *,
    activity: Activity[Any, Any] = charge,
    attempt: int = 1,
    deadline: datetime | None = None,
    sent: datetime | None = None,
    step: str = "payments.charge",
) -> Command:
    """A command of saga `order`; a compensation where the activity is one."""
    action = "compensate" if activity.undoes else "invoke"
    return Command(
        id=command_id(COORDINATOR, order, step, action, attempt),
        activity=activity.name,
        saga_id=order,
        saga_type="order",
        step=step,
        action="compensate" if activity.undoes else "invoke",
        attempt=attempt,
        key=saga_key(COORDINATOR, order, step),
        reply_to=REPLIES,
        source="/test",
        deadline=deadline,
        time=sent or datetime.now(UTC),
        passed_on=(("traceparent", "00-aa-bb-01"),),
    )


def record_of(sent: Command, body: Any = None) -> Outgoing:
    if body is None:
        order = {"id": sent.saga_id, "total": 1}
        body = order if sent.action == "invoke" else {"input": order, "output": {"charge_id": "c-1"}}
    value = body if isinstance(body, bytes) else msgspec.json.encode(body)
    # As of a step that names an entity: all commands of one order share a line.
    return Outgoing(topic=COMMANDS, key=sent.saga_id.encode(), value=value, headers=sent.headers())


@dataclass
class Service:
    """One database and one broker; `worker` may be replaced (the process died) while these live on."""

    engine: Engine
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    clock: FakeClock = field(default_factory=FakeClock)
    behaviour: Callable[[Any, Order], Charged] | None = None
    undo_behaviour: Callable[[Any, Undo[Order, Charged]], None] | None = None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        Base.metadata.create_all(self.engine)
        outbox.create_all(self.engine)
        self.sessions = sessionmaker(self.engine)
        self.start()

    def start(self) -> None:
        """A new process."""
        self.worker = Worker(
            "payments",
            sessions=self.sessions,
            options=WorkerOptions(loop=LoopOptions(commit_interval=0.0)),
            clock=self.clock,
        )
        self.worker.handle(charge)(self._charge)
        self.worker.handle(refund)(self._refund)
        self.connect()

    def connect(self) -> None:
        """Join the group with the handlers that the worker has now."""
        self.producer = self.broker.producer()
        self.consumer = self.broker.consumer("payments")
        self.runner = InlineRunner(SyncDesk(self.sessions, sleep=lambda seconds: None))
        self.loop: CommandLoop = self.worker.loop(self.consumer, self.producer, runner=self.runner)
        self.loop.start()

    def die(self) -> None:
        """kill -9: what was not yet given to the broker is gone; another process starts."""
        self.consumer.close()
        for connection in list(_OPENED.get(self.engine, ())):
            connection.close()
        self.clock.seconds += 60  # longer than the leases of the dead one
        self.start()

    def _charge(self, ctx: Any, order: Order) -> Charged:
        self.calls.append(f"charge {order.id}")
        if self.behaviour is not None:
            return self.behaviour(ctx, order)
        return book(ctx, order)

    def _refund(self, ctx: Any, undo: Undo[Order, Charged]) -> None:
        self.calls.append(f"refund {undo.input.id}")
        if self.undo_behaviour is not None:
            self.undo_behaviour(ctx, undo)
        else:
            ctx.session.add(Booking(order=undo.input.id, amount=-undo.input.total))

    def send(self, *commands: Command, body: Any = None) -> None:
        for sent in commands:
            self.broker.append(record_of(sent, body))

    def settle(self, steps: int = 6, pace: float = 0.5) -> None:
        """Let the loop run until nothing more happens; time passes, so that pauses end."""
        for _ in range(steps):
            self.loop.step()
            self.clock.seconds += pace

    def wire(self) -> list[Record]:
        """The records on the reply topic, in order of writing."""
        return list(self.broker.records(REPLIES))

    def replies(self) -> list[Reply]:
        return [parse_reply(record) for record in self.wire()]

    def outcomes(self) -> list[str]:
        return [f"{r.outcome}:{r.error}" if r.error else r.outcome for r in self.replies()]

    def balance(self, order: str = "o-1") -> int:
        with self.sessions() as session:
            return sum(session.scalars(select(Booking.amount).where(Booking.order == order)))

    def bookings(self) -> int:
        with self.sessions() as session:
            return len(session.scalars(select(Booking)).all())

    def inbox(self) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(select(inbox_table)).all()

    def outbox_rows(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(outbox_table.c.seq)).all())

    def committed(self) -> int:
        return sum(self.broker.committed("payments").values())

    def body(self, index: int = -1) -> Any:
        value = self.wire()[index].value
        return None if value is None else msgspec.json.decode(value)


def book(ctx: Any, order: Order) -> Charged:
    ctx.session.add(Booking(order=order.id, amount=order.total))
    return Charged(charge_id=ctx.idempotency_key)


def sqlite_engine(path: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def quick(connection: Any, _: Any) -> None:
        connection.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF")

    return engine


class _Connection(sqlite3.Connection):
    """Its statements end with it: in a killed worker they are garbage in a cycle, and hold locks until it is found."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        made = super().cursor(*args, **kwargs)
        self.__dict__.setdefault("made", weakref.WeakSet()).add(made)
        return made

    def close(self) -> None:
        for cursor in list(self.__dict__.pop("made", ())):
            cursor.close()
        super().close()


#: The connections of each database of `memory_engine`.
_OPENED: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[_Connection]] = weakref.WeakKeyDictionary()


def memory_engine() -> Engine:
    """A database without a file, for tests that need hundreds of them; it outlives the workers that die."""
    name = f"file:kit-{fresh_id()}?mode=memory&cache=shared"
    keeper = sqlite3.connect(name, uri=True)  # a killed worker's connection is lost, and must not be the last one
    opened: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def connect() -> _Connection:
        connection = sqlite3.connect(name, uri=True, factory=_Connection)
        opened.add(connection)
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    _OPENED[engine] = opened
    event.listen(engine, "engine_disposed", lambda _: keeper.close())
    return engine


def later(moment: Command, **changes: Any) -> Command:
    return msgspec.structs.replace(moment, **changes)


def past(**ago: float) -> datetime:
    return datetime.now(UTC) - timedelta(**ago)


class Bomb:
    """Kills the process at the n-th crossing of a boundary between it and its database and broker.

    The worker survives whatever a handler raises, so a dead one is told so at every boundary that it comes to.
    """

    def __init__(self, service: Service, n: int) -> None:
        self.left = n
        self.fired = False
        self.defused = False
        dialect: Any = service.engine.dialect
        self._restore = [(dialect, name, getattr(dialect, name)) for name in ("do_commit", "do_execute")]
        dialect.do_commit = self._around(dialect.do_commit)
        dialect.do_execute = self._around(dialect.do_execute)
        producer: Any = service.producer
        consumer: Any = service.consumer
        for thing, name in ((producer, "send"), (producer, "poll"), (consumer, "poll"), (consumer, "commit")):
            setattr(thing, name, self._around(getattr(thing, name)))

    def _tick(self) -> None:
        self.left -= 1
        if self.left <= 0 and not self.defused:
            self.fired = True
            raise Killed

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            result = function(*args, **kwargs)
            self._tick()
            return result

        return wrapped

    def defuse(self) -> None:
        """The next process is a healthy one."""
        self.defused = True
        for thing, name, original in self._restore:
            setattr(thing, name, original)


def survives_every_crash(make: Callable[[], Service], play: Callable[[Service], None]) -> list[Service]:
    """Run `play` once for each boundary, killed there and started again; the services as they are at the end."""
    ended: list[Service] = []
    gc.freeze()  # what is there already need not be looked at each time
    for n in range(1, 400):
        service = make()
        bomb = Bomb(service, n)
        try:
            play(service)
        except Killed:
            pass
        # A dead process holds no locks; a connection that is lost in a cycle would till the collector comes by.
        gc.collect()
        bomb.defuse()
        if not bomb.fired:
            assert n > 20, "the scenario crosses no boundaries"
            return ended
        service.die()
        service.settle(6)
        ended.append(service)
    raise AssertionError("the scenario never ends")
