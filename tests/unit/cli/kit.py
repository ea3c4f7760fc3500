"""Databases as a coordinator would have left them, made by the engine itself; and the command line run in-process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import create_engine
from typer.testing import CliRunner

from segue.cli.main import build
from segue.clock import SYSTEM_CLOCK, from_micros, to_micros
from segue.contract import Signal
from segue.coordinator import schema
from segue.coordinator.projection import row_of
from segue.coordinator.service import Coordinator, Options
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import AuditEntry, Changes, DeadLetterRow, EventRow, SagaRow
from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.definition import Registry, SagaDefinition
from segue.saga.effects import Moved, SendCommand
from segue.saga.inputs import Input, Reply, SignalArrived
from segue.saga.transition import advance, go_on, start
from segue.topics import MemoryBroker, TopicNames
from segue.topics.broker import Record
from segue.topics.converter import Converter
from tests.unit.saga.kit import OUTPUTS, Order
from tests.unit.saga.sagas import order_saga


@dataclass
class Played:
    """A saga that the pure engine has played up to some point, begun `ago` before now."""

    id: str = "order-1"
    definition: SagaDefinition[Any, Any] = order_saga
    input: Any = field(default_factory=Order)
    ago: timedelta = timedelta(minutes=3)

    def __post_init__(self) -> None:
        self.now = to_micros(SYSTEM_CLOCK.now() - self.ago)
        self.events: list[EventRow] = []
        self.sent: list[SendCommand] = []
        self.wake_at: int | None = None
        converter = Converter()
        data = converter.to_bytes(self.input, self.definition.input_type)
        self.instance, moved = start(self.id, self.definition, converter, coordinator="segue", input=data, now=self.now)
        self._keep(moved)

    def happen(self, happened: Input) -> Played:
        self.now += 1_000_000
        moved = advance(self.instance, happened, self.now)
        assert isinstance(moved, Moved), moved
        self._keep(moved)
        while self.instance.state.run_is_over:
            self._keep(go_on(self.instance, self.definition, Converter(), self.now))
        return self

    def answer(self, step: str, outcome: str = "success", error: str = "", message: str = "") -> Played:
        command = [command for command in self.sent if command.step == step][-1]
        body = {"message": message} if message else OUTPUTS.get(command.activity)
        raw = msgspec.Raw(
            msgspec.json.encode(None if outcome == "success" and command.action == "compensate" else body)
        )
        return self.happen(Reply(command_id=command.id, outcome=outcome, body=raw, error=error))  # type: ignore[arg-type]

    @property
    def row(self) -> SagaRow:
        return row_of(self.instance.state, self.wake_at)

    def _keep(self, moved: Moved) -> None:
        state = self.instance.state
        self.wake_at = moved.wake_at
        self.sent += [effect for effect in moved.effects if isinstance(effect, SendCommand)]
        self.events.append(
            EventRow(
                saga_id=self.id,
                seq=state.revision,
                type=type(moved.events[0]).__name__,
                at=from_micros(self.now),
                payload=e.encode_events(moved.events),
            )
        )


def shipping(saga_id: str = "order-1", **more: Any) -> Played:
    """An order that is paid and reserved and waits for its second try to be shipped."""
    played = Played(saga_id, **more).answer("payments.charge").answer("stock.reserve")
    return played.answer("shipping.ship", "retry", "busy", "no van")


def deferred(saga_id: str = "order-2", **more: Any) -> Played:
    """An order whose refund was refused: it waits for a person."""
    played = (
        Played(saga_id, **more).answer("payments.charge").answer("stock.reserve", "failure", "sold_out", "none left")
    )
    return played.answer("payments.charge", "failure", "account_closed", "ann left")


def completed(saga_id: str = "order-3", **more: Any) -> Played:
    played = Played(saga_id, **more)
    for step in ("payments.charge", "stock.reserve", "shipping.ship", "mail.confirm"):
        played.answer(step)
    return played


def compensated(saga_id: str = "order-4", **more: Any) -> Played:
    played = (
        Played(saga_id, **more).answer("payments.charge").answer("stock.reserve", "failure", "sold_out", "none left")
    )
    return played.answer("payments.charge")


@saga("counter")
async def counter_saga(s: Saga, count: int) -> int:
    count += await s.receive(Signal("tick", int))
    s.continue_as_new(count)


def in_its_third_run(saga_id: str = "counter-1", **more: Any) -> Played:
    """A saga of several runs: two transitions, two more, and one."""
    played = Played(saga_id, definition=counter_saga, input=1, **more)
    for count in (2, 3):
        played.happen(SignalArrived(name="tick", payload=msgspec.Raw(b"%d" % count)))
    return played


def letter(offset: int = 1, **more: Any) -> DeadLetterRow:
    now = SYSTEM_CLOCK.now() - timedelta(hours=1)
    record = Record(
        topic="segue.replies",
        partition=0,
        offset=offset,
        key=b"order-9",
        value=b"\x00\xffnot json",
        headers=(("ce_id", b"m-1"), ("ce_id", None), ("x", b"\x1b[2J")),
        timestamp_ms=1,
    )
    values: dict[str, Any] = {
        "state": "dead",
        "record": record,
        "topic_id": "t",
        "reason": "undecodable",
        "error_class": "DecodeError",
        "error_message": "not JSON \x1b[31m",
        "fingerprint": "3fa2b1c0d9e8",
        "created_at": now,
        "updated_at": now,
    }
    return DeadLetterRow(**{**values, **more})


class Database:
    """A SQLite or PostgreSQL database with the schema, to be filled."""

    def __init__(self, url: str) -> None:
        self.url = url
        engine = create_engine(url)
        schema.metadata.create_all(engine)
        engine.dispose()
        self.store = SqlStore(url)

    def close(self) -> None:
        self.store.close()

    def put(self, *sagas: Played, **changed: Any) -> Database:
        """Store sagas; `changed` overwrites columns of their rows."""
        with self.store.batch() as batch:
            batch.write(
                Changes(
                    started=[msgspec.structs.replace(saga.row, **changed) for saga in sagas],
                    events=[event for saga in sagas for event in saga.events],
                )
            )
        return self

    def letters(self, *letters: DeadLetterRow) -> Database:
        with self.store.batch() as batch:
            batch.write(Changes(dead_letters=list(letters)))
        return self

    def audit(self, *entries: AuditEntry) -> Database:
        with self.store.batch() as batch:
            batch.write(Changes(audits=list(entries)))
        return self

    def execute(self, statement: Any, *rows: Any) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(statement, *rows)
        engine.dispose()

    def rows(self, query: Any) -> list[Any]:
        engine = create_engine(self.url)
        with engine.connect() as connection:
            found = list(connection.execute(query))
        engine.dispose()
        return found


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def segue(*arguments: str, stdin: str | None = None) -> Ran:
    """Run the command line in this process."""
    result = CliRunner().invoke(build(), list(arguments), input=stdin, prog_name="segue")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


@contextmanager
def coordinating(url: str) -> Iterator[None]:
    """A coordinator, over a broker in memory, that serves what people ask for while the block runs."""
    broker = MemoryBroker(partitions=1)
    names = TopicNames(coordinator="segue")
    for topic in (names.replies, names.requests, names.dlq):
        broker.create_topic(topic)
    stop = threading.Event()
    store = SqlStore(url)
    coordinator = Coordinator(
        names, Registry([order_saga]), store, broker.consumer("segue"), broker.producer(), options=Options(tick=0.01)
    )
    # The broker in memory never waits: the pause is here.
    thread = threading.Thread(target=coordinator.run, args=(lambda: stop.wait(0.005),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        store.close()
