"""Avro with a Schema Registry on real Kafka: `segue`'s processes on one side, Confluent's serialisers on the other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from segue.clock import SYSTEM_CLOCK, fresh_id
from tests.real.deployment import DEADLINE, Deployment
from tests.real.registry import SchemaRegistry

SAGAS = """
from dataclasses import dataclass
from decimal import Decimal

from segue.contract import Activity, Signal
from segue.saga import Saga, saga


@dataclass(frozen=True)
class Order:
    id: str
    total: Decimal


@dataclass(frozen=True)
class Done:
    number: str


@dataclass(frozen=True)
class Approval:
    by: str
    amount: Decimal


approved = Signal("approved", Approval)
charge = Activity("payments.charge", Order, Done)
refund = charge.undo("payments.refund")
ship = Activity("shipping.ship", Order, Done)


@saga("order")
async def order_saga(s: Saga, order: Order) -> str:
    charged = await s.call(charge, order)
    shipped = await s.call(ship, order)
    return f"{charged.number} {shipped.number}"


@saga("asking")
async def asking_saga(s: Saga, order: Order) -> str:
    charged = await s.call(charge, order, compensate=refund)
    said = [await s.receive(approved) for _ in range(3)]
    await s.call(ship, Order(f"{charged.number} " + " ".join(f"{each.by} {each.amount}" for each in said), order.total))
    return "shipped"
"""
WORKER = """
import os

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sagas import Done, charge, refund
from segue.activities import ReplyLater, Worker

worker = Worker("payments", sessionmaker(create_engine("sqlite:///payments.db")))
worker.create_tables()


@worker.handle(charge)
def charge_order(ctx, order):
    if order.id == "later":
        open("token.part", "w").write(ctx.token)
        os.replace("token.part", "token")
        raise ReplyLater
    return Done(f"{order.total:.2f}")


@worker.handle(refund)
def refund_order(ctx, undo):
    open("refunded", "w").write(f"{undo.input.total:.2f} {undo.output.number}")
"""
#: Another program of the service: a callback of its bank, say.
ANSWER = """
import os
import time

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sagas import Done
from segue.activities import reply
from segue.errors import NotFound
from segue.settings import load
from segue.settings.deployment import codecs_of

codecs = codecs_of(load(environment=os.environ).settings)
sessions = sessionmaker(create_engine("sqlite:///payments.db"))
while True:
    try:
        with sessions.begin() as session:
            reply(session, open("token").read(), Done("c-9"), codecs=codecs)
        break
    except (FileNotFoundError, NotFound):
        time.sleep(0.05)  # its handler has not begun, or has not ended
"""
#: The client of another program: as it is, and through its own outbox.
SIGNAL = """
from sagas import Approval, approved, asking_saga
from decimal import Decimal
from segue.client import Client

with Client.from_settings() as client:
    client.handle(asking_saga, "asking-1").signal(approved, Approval("bob", Decimal("7.25")))
"""
ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    ],
}
DONE = {"type": "record", "name": "Done", "fields": [{"name": "number", "type": "string"}]}
UNDO = {
    "type": "record",
    "name": "Undone",
    "fields": [{"name": "input", "type": ORDER}, {"name": "output", "type": ["null", DONE]}],
}
APPROVAL = {
    "type": "record",
    "name": "Approval",
    "fields": [
        {"name": "by", "type": "string"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    ],
}
REFUSED = {
    "type": "record",
    "name": "Refused",
    "fields": [{"name": "code", "type": "string"}, {"name": "message", "type": "string"}],
}


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry("ann", "secret") as running:
        yield running


@pytest.fixture
def deployment(
    tmp_path: Path, kafka_bootstrap: str, postgres_url: str, registry: SchemaRegistry
) -> Iterator[Deployment]:
    made = Deployment(tmp_path, kafka_bootstrap, postgres_url)
    (tmp_path / "sagas.py").write_text(SAGAS, "utf-8")
    (tmp_path / "payments.py").write_text(WORKER, "utf-8")
    written = [f"{made.name}.{name}" for name in ("payments.commands", "shipping.commands", "replies", "requests")]
    (tmp_path / "segue.toml").write_text(
        f'[avro]\nregistry = "{registry.url}"\nproperties = {{ "basic.auth.user.info" = "ann:secret" }}\n'
        "[avro.topics]\n" + "".join(f'"{topic}" = "{{topic}}-{{type}}"\n' for topic in written),
        "utf-8",
    )
    registry.register(f"{written[0]}-payments.charge", ORDER)
    registry.register(f"{written[0]}-payments.refund", UNDO)
    registry.register(f"{written[3]}-asking", ORDER)
    registry.register(f"{written[3]}-approved", APPROVAL)
    registry.register(f"{written[1]}-shipping.ship", ORDER)
    registry.register(f"{written[2]}-payments.charge.reply", DONE)
    yield made
    made.close()


class Shipping:
    """A service that knows Confluent's serialisers and one header of ours."""

    def __init__(self, deployment: Deployment, kafka: str, client: SchemaRegistryClient) -> None:
        self.replies, self.commands = f"{deployment.name}.replies", f"{deployment.name}.shipping.commands"
        self.orders: list[Any] = []
        self.seen: list[Message] = []
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": fresh_id(), "auto.offset.reset": "earliest"})
        self._consumer.subscribe([self.commands, self.replies])
        self._producer = Producer({"bootstrap.servers": kafka})
        self._read = AvroDeserializer(client)
        self._done = AvroSerializer(client, json.dumps(DONE))
        self._refused = AvroSerializer(client, json.dumps(REFUSED))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            self.seen.append(message)
            if message.topic() == self.commands:
                self._answer(message)

    def _answer(self, message: Message) -> None:
        order: Any = self._read(message.value(), SerializationContext(self.commands, MessageField.VALUE))
        self.orders.append(order)
        headers: list[tuple[str, Any]] = [("ce_causationid", dict(message.headers() or [])["ce_id"])]
        context = SerializationContext(self.replies, MessageField.VALUE)
        if order["id"] == "o-1":
            value = self._done({"number": "p-1"}, context)
        else:
            value = self._refused({"code": "no_address", "message": "where to?"}, context)
            headers += [("ce_sagaoutcome", "failure"), ("ce_sagaerror", "no_address")]
        # No content type: what begins with a zero byte is known by it.
        self._producer.produce(self.replies, value, key=dict(message.headers() or [])["ce_sagaid"], headers=headers)
        self._producer.flush(10)


class Theirs:
    """A program that starts and signals sagas with Confluent's serialisers."""

    def __init__(self, deployment: Deployment, kafka: str, client: SchemaRegistryClient) -> None:
        self._requests = f"{deployment.name}.requests"
        self._client = client
        self._producer = Producer({"bootstrap.servers": kafka})

    def send(self, action: str, type: str, saga: str, schema: Any, value: Any) -> None:
        written = AvroSerializer(self._client, json.dumps(schema))(
            value, SerializationContext(self._requests, MessageField.VALUE)
        )
        headers = {
            "ce_specversion": "1.0",
            "ce_id": fresh_id(),
            "ce_source": "/test",
            "ce_type": type,
            "ce_sagaid": saga,
            "ce_sagaaction": action,
        }
        self._producer.produce(self._requests, written, key=saga, headers=list(headers.items()))
        self._producer.flush(10)


def ended(deployment: Deployment, saga: str) -> Any:
    """The saga once it has ended."""
    give_up = SYSTEM_CLOCK.monotonic() + DEADLINE
    found: Any = {}
    while SYSTEM_CLOCK.monotonic() < give_up:
        listed = deployment.json("saga", "ls")["sagas"]
        found = next((each for each in listed if each["id"] == saga), {})
        if found.get("status") not in (None, "running", "compensating"):
            return found
    raise AssertionError(f"{found} {deployment.log()}")


def read_all(kafka: str, topic: str) -> list[Message]:
    """All that is on the topic."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": fresh_id(), "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    found, ends = [], 0
    while ends < len(partitions):
        message = consumer.poll(DEADLINE)
        assert message is not None
        if message.error() is None:
            found.append(message)
        else:
            ends += 1
    consumer.close()
    return found


@pytest.fixture
def client(registry: SchemaRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": registry.url, "basic.auth.user.info": "ann:secret"})


@pytest.fixture
def shipping(deployment: Deployment, kafka_bootstrap: str, client: SchemaRegistryClient) -> Iterator[Shipping]:
    deployment.segue("db", "upgrade")
    deployment.segue("topics", "create")
    deployment.run("coordinator", "run")
    deployment.run("worker", "run", "payments:worker")
    made = Shipping(deployment, kafka_bootstrap, client)
    yield made
    made.close()


def test_sagas_workers_and_services_of_others_speak_avro_in_both_directions(
    deployment: Deployment, kafka_bootstrap: str, client: SchemaRegistryClient, shipping: Shipping
) -> None:
    theirs = Theirs(deployment, kafka_bootstrap, client)
    theirs.send("start", "order", "order-1", ORDER, {"id": "o-1", "total": Decimal("120.50")})
    assert ended(deployment, "order-1")["status"] == "completed", deployment.log()
    shipping.close()
    shown = deployment.json("saga", "show", "order-1")
    assert "120.50 p-1" in str(shown)
    assert shipping.orders == [{"id": "o-1", "total": Decimal("120.50")}]
    own = [message for message in shipping.seen if dict(message.headers() or []).get("content-type")]
    assert {(message.topic(), dict(message.headers() or [])["content-type"]) for message in own} == {
        (shipping.commands, b"application/avro"),
        (shipping.replies, b"application/avro"),
    }
    assert all((message.value() or b"")[:1] == b"\0" for message in own)


def test_later_answers_signals_refusals_and_undos_are_avro_in_both_directions(
    deployment: Deployment,
    kafka_bootstrap: str,
    client: SchemaRegistryClient,
    shipping: Shipping,
    tmp_path: Path,
) -> None:
    def program(text: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", text],
            cwd=tmp_path,
            env=deployment.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr + deployment.log()

    begun = tmp_path / "order.json"
    begun.write_text('{"id": "later", "total": "12.50"}', "utf-8")
    deployment.segue("saga", "start", "asking", f"@{begun}", "--id", "asking-1")
    program(ANSWER)
    theirs = Theirs(deployment, kafka_bootstrap, client)
    theirs.send("signal", "approved", "asking-1", APPROVAL, {"by": "ann", "amount": Decimal("3.10")})
    program(SIGNAL)
    deployment.segue("saga", "signal", "asking-1", "approved", '{"by": "eve", "amount": "1.00"}')

    assert ended(deployment, "asking-1")["status"] == "compensated", deployment.log()
    shipping.close()
    [order] = shipping.orders
    assert sorted(order["id"].split()) == sorted(["c-9", "ann", "3.10", "bob", "7.25", "eve", "1.00"]), (
        "what each side wrote in Avro"
    )
    assert "no_address" in str(deployment.json("saga", "show", "asking-1")), "their refusal in Avro"
    assert (tmp_path / "refunded").read_text() == "12.50 c-9"

    read = AvroDeserializer(client)
    requests = read_all(kafka_bootstrap, f"{deployment.name}.requests")
    values = [read(m.value(), SerializationContext(m.topic() or "", MessageField.VALUE)) for m in requests]
    assert {value.get("by", value.get("id")) for value in values} == {"later", "ann", "bob", "eve"}
    own = [message for message in shipping.seen if dict(message.headers() or []).get("content-type")]
    assert {dict(message.headers() or [])["content-type"] for message in own} == {b"application/avro"}
    first = {
        (headers["ce_type"], headers["ce_sagaoutcome"], (message.value() or b"")[:1])
        for message in own
        if message.topic() == shipping.replies
        for headers in [dict(message.headers() or [])]
    }
    assert first == {
        (b"payments.charge.reply", b"pending", b""),
        (b"payments.charge.reply", b"success", b"\0"),
        (b"payments.refund.reply", b"success", b""),
    }
