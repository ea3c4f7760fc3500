"""A whole small estate in one thread: coordinators, a broker in memory, participants that answer as told, one store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from segue.coordinator.memory import MemoryStore
from segue.coordinator.service import Coordinator, Options
from segue.coordinator.store import OperatorRequest, SagaRow, Store
from segue.errors import NotFound
from segue.ids import derive, reply_id
from segue.observe import Logging
from segue.saga.definition import Registry, SagaDefinition
from segue.topics import Converter, MemoryBroker, TopicNames
from segue.topics.broker import Outgoing, Record
from segue.topics.envelope import Command, Outcome, Reply, Request, RequestAction, parse_command
from tests.unit.saga.kit import OUTPUTS

NAMES = TopicNames(coordinator="test")
SERVICES = ("payments", "stock", "shipping", "mail", "risk", "bank")


class ManualClock:
    """A clock that the test moves; the store under test reads it, too, where it can."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, by: timedelta) -> None:
        self.moment += by
        self.seconds += by.total_seconds()


@dataclass
class Estate:
    """`run()` lets everything happen that can happen without time passing; `pass_time` moves the clock."""

    store: Store
    definitions: Sequence[SagaDefinition[Any, Any]]
    clock: ManualClock
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(partitions=2))
    options: Options = field(default_factory=Options)
    answers: dict[str, Callable[[Command], Any]] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.observer = Logging()
        self.producer = self.broker.producer()
        self.participants = self.broker.consumer(None)
        for topic in (NAMES.replies, NAMES.requests, NAMES.dlq, *(NAMES.commands_of(s) for s in SERVICES)):
            self.broker.create_topic(topic)
        self.participants.subscribe(
            [NAMES.commands_of(s) for s in SERVICES], starts=lambda _: {}, revoked=lambda _: None
        )
        self.coordinators = [self.coordinator()]

    def coordinator(self, definitions: Sequence[SagaDefinition[Any, Any]] | None = None, **more: Any) -> Coordinator:
        return Coordinator(
            NAMES,
            Registry(self.definitions if definitions is None else definitions),
            more.pop("store", self.store),
            self.broker.consumer(NAMES.coordinator),
            self.broker.producer(),
            clock=self.clock,
            observer=self.observer,
            options=self.options,
            **more,
        )

    # --- messages

    def send(self, topic: str, key: str | None, value: bytes | None, headers: Any) -> None:
        self.producer.send(
            Outgoing(topic=topic, key=key.encode() if key else None, value=value, headers=headers), lambda _error: None
        )
        self.producer.flush(1)

    def request(
        self, action: RequestAction, saga_id: str, name: str, body: Any = None, *, message_id: str | None = None
    ) -> None:
        data = Converter().to_bytes(body)
        identity = message_id or derive("request", saga_id, action, name, data.decode())
        request = Request(id=identity, action=action, saga_id=saga_id, name=name)
        self.send(NAMES.requests, saga_id, data, request.headers())

    def start(self, definition: SagaDefinition[Any, Any], input: Any, id: str, **more: Any) -> None:
        self.request("start", id, definition.name, input, **more)

    def reply(self, command: Command, outcome: Outcome = "success", body: Any = None, **more: Any) -> None:
        reply = Reply(
            id=reply_id(command.id, outcome), command_id=command.id, outcome=outcome, saga_id=command.saga_id, **more
        )
        self.send(command.reply_to, command.saga_id, msgspec.json.encode(body), reply.headers())

    # --- time

    def run(self, turns: int = 60) -> None:
        """Until nothing moves any more (the clock creeps on by the coordinators' tick)."""
        quiet = 0
        for _ in range(turns):
            worked = sum(c.step() for c in self.coordinators) > 0
            worked = self.answer() or worked
            self.clock.advance(timedelta(milliseconds=120))
            quiet = 0 if worked else quiet + 1
            if quiet > 3:
                return
        raise AssertionError("it does not come to rest")

    def pass_time(self, by: timedelta) -> None:
        self.clock.advance(by)
        self.run()

    def answer(self) -> bool:
        """Let the participants answer what has arrived, each by its function in `answers`, else with a success."""
        records = self.participants.poll(1000, 0).records
        for record in records:
            self.handle(record)
        return bool(records)

    def handle(self, record: Record) -> None:
        command = parse_command(record)
        self.commands.append(command)
        self.bodies.append(msgspec.json.decode(record.value or b"null"))
        name = command.activity
        if name in self.silent:
            return
        answer: Any = self.answers[name](command) if name in self.answers else ("success", OUTPUTS.get(name))
        if answer is not None:
            outcome, body = answer[:2]
            self.reply(command, outcome, body, **(answer[2] if len(answer) > 2 else {}))

    # --- what can be seen

    def saga(self, saga_id: str) -> SagaRow:
        with self.store.batch() as batch:
            found = batch.lock([saga_id])
        if saga_id not in found:
            raise NotFound(saga_id)
        return found[saga_id]

    def sent(self, saga_id: str | None = None) -> list[str]:
        return [
            ("undo " if c.action == "compensate" else "") + c.step
            for c in self.commands
            if saga_id in (None, c.saga_id)
        ]

    def dead(self) -> list[Record]:
        return self.broker.records(NAMES.dlq)

    def relay(self) -> None:
        """Publish what a crash left in the outbox, as the relay does in the end."""
        assert isinstance(self.store, MemoryStore)
        self.store.unpack(timedelta(0))
        for message in list(self.store.tables.outbox.values()):
            out = message.outgoing()
            self.send(out.topic, message.aggregateid, out.value, out.headers)
            self.store.forget_messages([message.id])

    def ask(self, kind: Any, saga_id: str | None = None, *, letter: int | None = None, **arguments: Any) -> int:
        now = self.store.now()
        request = OperatorRequest(
            kind=kind,
            saga_id=saga_id,
            dead_letter_id=letter,
            arguments=msgspec.json.encode(arguments),
            actor="ann",
            reason="test",
            not_before=now,
            created_at=now,
        )
        return self.store.ask([request])[0]

    def close(self) -> None:
        for coordinator in self.coordinators:
            coordinator.close()
