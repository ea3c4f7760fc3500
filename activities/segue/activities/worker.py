"""The worker: what a service author writes against, and the driver of its loop."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar, get_args, overload

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from segue.activities.context import Context
from segue.activities.forgetful import NO_SESSION, ForgetfulRunner
from segue.activities.handlers import Prepared, Reader, Registration, TransactionMode
from segue.activities.heartbeat import Heartbeats
from segue.activities.loop import CommandLoop, LoopOptions
from segue.activities.pace import Pace
from segue.activities.participant import Participant
from segue.activities.runner import AsyncRunner, InlineRunner, Runner, ThreadRunner
from segue.activities.unit import UnitOfWork
from segue.clock import SYSTEM_CLOCK, Clock
from segue.contract import Activity
from segue.errors import ConfigError, ContractError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.observe import SILENT, Logging, Observer
from segue.outbox.deadline import CALL_TIMEOUT
from segue.outbox.inbox import HORIZON, sweep
from segue.outbox.relay import Relay, RelayOptions
from segue.outbox.sql import SqlOutboxStore, create_all
from segue.outbox.store import OutboxStore
from segue.topics.broker import Consumer, Producer
from segue.topics.codec import Codecs
from segue.topics.converter import Converter
from segue.topics.names import TopicNames, dead_letters_of, legal
from segue.topics.settings import KafkaSettings, Property

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
S = TypeVar("S", Session, AsyncSession)

#: Seconds between two looks for inbox rows that are older than the horizon.
SWEEP_INTERVAL = 600.0
#: Seconds that a step waits for commands, and that the end of those being handled is waited for.
IDLE_PATIENCE, BUSY_PATIENCE = 0.1, 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker behaves; the defaults suit a service with a database of its own."""

    loop: LoopOptions = field(default_factory=LoopOptions)
    limits: Limits = DEFAULT_LIMITS
    #: How long fence rows are kept, and commands taken: more than the topic's retention and the longest deadline.
    horizon: timedelta = HORIZON
    #: Age at which the relay takes over replies that were left to the outbox: those that Kafka would not take.
    relay_after: timedelta = timedelta(seconds=10)
    #: Seconds that a stop waits for commands which are being handled.
    drain: float = 20.0
    #: How long one call to PostgreSQL may take, a handler's as well; then its connection is cut, and the command is
    #: handled again. What a handler does between two calls does not count.
    call_timeout: timedelta = CALL_TIMEOUT
    #: Topic of dead letters; None: `{worker}.dlq`.
    dead_letters: str | None = None


class Worker(Generic[S]):
    """A participant: `Worker("payments", sessions=SessionLocal)` answers the commands on `payments.commands`.

    `sessions` makes the sessions that handlers work with: a `sessionmaker` for sync handlers, which run in threads, an
    `async_sessionmaker` for `async def` handlers, which run on one event loop. All workers of one service share the
    name, and one database for the handlers and the tables of `segue.outbox`.

    Without `sessions`, `Worker("mail")`, it is for what may be done twice: a command that comes again is answered with
    the stored reply while the process lives, and handled anew after a restart or by another process. Its handlers run
    as with `transaction="manual"`, so what they raise proves nothing, and they can undo nothing.
    """

    @overload
    def __init__(
        self: Worker[Session],
        name: str,
        sessions: None = None,
        *,
        options: WorkerOptions = ...,
        codecs: Codecs | None = ...,
        clock: Clock = ...,
        observer: Observer = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Worker[Session],
        name: str,
        sessions: sessionmaker[Session],
        *,
        options: WorkerOptions = ...,
        codecs: Codecs | None = ...,
        clock: Clock = ...,
        observer: Observer = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Worker[AsyncSession],
        name: str,
        sessions: async_sessionmaker[AsyncSession],
        *,
        options: WorkerOptions = ...,
        codecs: Codecs | None = ...,
        clock: Clock = ...,
        observer: Observer = ...,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        sessions: sessionmaker[Any] | async_sessionmaker[Any] | None = None,
        *,
        options: WorkerOptions = WorkerOptions(),
        codecs: Codecs | None = None,
        clock: Clock = SYSTEM_CLOCK,
        observer: Observer = SILENT,
    ) -> None:
        if "." in name or "/" in name or not name or len(name) > 100:
            raise ConfigError(f"worker name {name!r:.120} must be a service's: 1 to 100 characters, no dots or slashes")
        if not isinstance(sessions, (sessionmaker, async_sessionmaker, type(None))):
            raise ConfigError(f"sessions of worker {name!r} is {sessions!r:.80}; give a sessionmaker of either kind")
        self.name = legal("the worker's name", name)
        self.options = options
        self._sessions = sessions
        #: How payloads are read and written; None: as `segue worker run` is told by its settings, JSON without it.
        self.codecs = codecs
        self._converter: Converter | None = None
        self._clock = clock
        #: Told what happens inside; `run` puts the log here where nobody else listens.
        self.observer = observer
        self._registrations: dict[str, Registration] = {}

    @property
    def is_async(self) -> bool:
        return isinstance(self._sessions, async_sessionmaker)

    @property
    def database_url(self) -> str | None:
        """Where its sessions go, with the password; None if they are bound elsewhere than in the sessionmaker."""
        bind = getattr(self._sessions, "kw", {}).get("bind")
        url = getattr(bind, "url", None)
        return None if url is None else str(url.render_as_string(hide_password=False))

    @property
    def activities(self) -> Sequence[str]:
        """The activities that have a handler."""
        return sorted(self._registrations)

    @property
    def dead_letters(self) -> str:
        """The topic of this worker's dead letters."""
        return self.options.dead_letters or dead_letters_of(self.name)

    # --- handlers

    @overload
    def handle(
        self: Worker[Session], activity: Activity[I, O], *, transaction: TransactionMode = ...
    ) -> Callable[[Callable[[Context[Session], I], O]], Callable[[Context[Session], I], O]]: ...
    @overload
    def handle(
        self: Worker[AsyncSession], activity: Activity[I, O], *, transaction: TransactionMode = ...
    ) -> Callable[
        [Callable[[Context[AsyncSession], I], Awaitable[O]]], Callable[[Context[AsyncSession], I], Awaitable[O]]
    ]: ...
    def handle(self, activity: Activity[Any, Any], *, transaction: TransactionMode = "joined") -> Any:
        """Register the decorated function as the handler of `activity`; it is returned unchanged.

        `transaction="joined"`: what it writes with `ctx.session` commits together with the reply, exactly once. Under
        load several commands share that transaction, one after the other, each with a session that knows nothing of
        the others' objects; if one of them raises, all are rolled back and run one by one. How many is learned from
        the time that the handler takes: one that waits for something else than the database soon runs alone.
        `transaction="single"`: the same, but never shared; for what locks rows that many others want, or does
        something beside the database that should rarely be done twice.
        `transaction="manual"`: for long work; it runs in no transaction, may run again after a crash, and continues
        from `ctx.details`. Raises ContractError for a second handler, another service's activity, or a function of the
        other colour (sync or async) than the sessions, or types of which no value survives being written and read.
        """
        if activity.service != self.name:
            raise ContractError(
                f"{activity.name} belongs to service {activity.service!r}, so it never reaches worker {self.name!r}"
            )
        if activity.name in self._registrations:
            handler = self._registrations[activity.name].function
            raise ContractError(f"{activity.name} has a handler already: {handler!r}")
        if transaction not in get_args(TransactionMode):
            allowed = ", ".join(get_args(TransactionMode))
            raise ContractError(f"transaction of {activity.name} is {transaction!r}; allowed are {allowed}")

        if self._sessions is None:
            transaction = "manual"
            if activity.undoes is not None:
                raise ContractError(
                    f"{activity.name} undoes {activity.undoes}, and what was done must be remembered for as long as "
                    f"commands are: worker {self.name!r} needs a database, give it `sessions=`"
                )

        def register(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            if inspect.iscoroutinefunction(function) != self.is_async:
                wanted = "an async def function" if self.is_async else "a plain function"
                raise ContractError(f"the handler of {activity.name} must be {wanted}, as the worker's sessions are")
            for kind in (activity.input, *([] if activity.output is None else [activity.output])):
                Converter().check(kind)
            self._registrations[activity.name] = Registration(
                activity=activity, function=function, transaction=transaction
            )
            return function

        return register

    # --- tables

    def create_tables(self) -> None:
        """Create the outbox and inbox tables where they are missing; for services without migrations."""
        if self._sessions is None:
            return  # it makes its own, each time that it runs
        runner = self._runner()
        try:
            runner.transact(create_all)
        finally:
            runner.close()

    def sweep(self, runner: Runner, limit: int = 1000) -> int:
        """Delete fence rows beyond the horizon; how many."""
        return runner.transact(lambda connection: sweep(connection, self.name, self.options.horizon, limit))

    # --- running

    def loop(
        self,
        consumer: Consumer,
        producer: Producer,
        *,
        topic: str | None = None,
        runner: Runner,
        store: OutboxStore | None = None,
    ) -> CommandLoop:
        """The loop over these ports, to be driven by the caller (a simulator, a test, `run`).

        `store`: the outbox, where it is not in the runner's database.
        """
        heartbeats = Heartbeats()

        loop: CommandLoop

        def beat(prepared: Prepared, details: Any, lease: int) -> None:
            heartbeats.put(prepared, details, lease)
            if isinstance(runner, InlineRunner):
                loop.serve_heartbeats()  # nobody else runs while the handler does

        limits = self.options.limits
        store = store or SqlOutboxStore(runner.transact)
        codecs, converter = self.codecs or Codecs(limits=limits), self._converter or Converter(limits)
        relay_options = RelayOptions(older_than=self.options.relay_after, patience=0.0)
        pace = Pace(self._clock, self.options.loop.group)
        participant = Participant(
            self.name,
            converter=converter,
            beat=beat,
            codecs=codecs,
            session=NO_SESSION if self._sessions is None else None,
            horizon=self.options.horizon,
            limits=limits,
        )
        loop = CommandLoop(
            name=self.name,
            topic=topic or f"{self.name}.commands",
            dead_letters=self.dead_letters,
            consumer=consumer,
            producer=producer,
            runner=runner,
            reader=Reader(self._registrations, codecs=codecs, converter=converter, limits=limits),
            unit=UnitOfWork(participant, pace, self.observer),
            pace=pace,
            heartbeats=heartbeats,
            relay=Relay(store, producer, options=relay_options, clock=self._clock, observer=self.observer),
            clock=self._clock,
            observer=self.observer,
            options=self.options.loop,
        )
        return loop

    def run(
        self,
        bootstrap: str | None = None,
        *,
        properties: Mapping[str, Property] | None = None,
        topics: TopicNames | None = None,
        consumer: Consumer | None = None,
        producer: Producer | None = None,
        stop: threading.Event | None = None,
        ready: threading.Event | None = None,
    ) -> None:
        """Answer commands until SIGTERM, SIGINT or `stop`; then finish what is being handled, and return.

        Reads from `bootstrap`, or with a `consumer` and `producer` made elsewhere (these are not closed). `ready` is
        set once partitions are assigned. Raises ConfigError for missing topics, authorisation and the like.
        """
        if self.observer is SILENT:
            self.observer = Logging()
        names = topics or TopicNames(coordinator="segue")
        own = consumer is None or producer is None
        if consumer is None or producer is None:
            consumer, producer = self._connect(bootstrap, properties or {})
        runner = self._runner()
        try:
            loop = self.loop(consumer, producer, topic=names.commands_of(self.name), runner=runner)
            with _Stop(stop) as stopping:
                loop.start()
                self._drive(loop, runner, consumer, stopping, ready)
            loop.drain(self.options.drain)
            loop.shut()
        finally:
            runner.close()
            if own:
                consumer.close()
                producer.close()

    def _drive(
        self,
        loop: CommandLoop,
        runner: Runner,
        consumer: Consumer,
        stop: threading.Event,
        ready: threading.Event | None,
    ) -> None:
        sweep_at = self._clock.monotonic() + SWEEP_INTERVAL
        while not stop.is_set():
            if not loop.step(IDLE_PATIENCE) and loop.handling:
                runner.wait(BUSY_PATIENCE)
            if ready is not None and not ready.is_set() and consumer.assignment():
                ready.set()
            if self._clock.monotonic() >= sweep_at:
                sweep_at = self._clock.monotonic() + SWEEP_INTERVAL
                self._sweep_quietly(runner)

    def _sweep_quietly(self, runner: Runner) -> None:
        try:
            self.observer.count("worker.inbox.swept", self.sweep(runner))
        except Exception as error:  # noqa: BLE001 - it has ten minutes until the next one
            self.observer.event("worker.sweep.failed", error=error)

    def _runner(self) -> Runner:
        if isinstance(self._sessions, async_sessionmaker):
            return AsyncRunner(self._sessions, call_timeout=self.options.call_timeout)
        if self._sessions is None:
            return ForgetfulRunner(self.options.loop.concurrency, call_timeout=self.options.call_timeout)
        return ThreadRunner(self._sessions, self.options.loop.concurrency, call_timeout=self.options.call_timeout)

    def _connect(self, bootstrap: str | None, properties: Mapping[str, Property]) -> tuple[Consumer, Producer]:
        # Imported here: it loads the Kafka client, which tests of a service do without.
        from segue.topics.kafka import KafkaConsumer, KafkaProducer

        if not bootstrap:
            raise ConfigError(f"worker {self.name!r} knows no Kafka; give bootstrap='host:port' (kafka.bootstrap)")
        settings = KafkaSettings(bootstrap=bootstrap, properties=properties, client_id=f"segue-{self.name}")
        return KafkaConsumer(settings, group=self.name, observer=self.observer), KafkaProducer(
            settings, observer=self.observer
        )


class _Stop:
    """An event that SIGTERM and SIGINT set as well, where the main thread asks."""

    def __init__(self, event: threading.Event | None) -> None:
        self._event = event or threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> threading.Event:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, lambda *_: self._event.set())
        return self._event

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
