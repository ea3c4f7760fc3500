"""Avro with a Schema Registry on real Kafka: `segue`'s processes on one side, Confluent's serialisers on the other."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from segue.clock import SYSTEM_CLOCK, fresh_id
from tests.real.deployment import DEADLINE, Deployment
from tests.real.registry import SchemaRegistry

SAGAS = """
from dataclasses import dataclass
from decimal import Decimal

from segue.contract import Activity
from segue.saga import Saga, saga


@dataclass(frozen=True)
class Order:
    id: str
    total: Decimal


@dataclass(frozen=True)
class Done:
    number: str


charge = Activity("payments.charge", Order, Done)
ship = Activity("shipping.ship", Order, Done)


@saga("order")
async def order_saga(s: Saga, order: Order) -> str:
    charged = await s.call(charge, order)
    shipped = await s.call(ship, order)
    return f"{charged.number} {shipped.number}"
"""
WORKER = """
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sagas import Done, charge
from segue.activities import Worker

worker = Worker("payments", sessionmaker(create_engine("sqlite:///payments.db")))
worker.create_tables()


@worker.handle(charge)
def charge_order(ctx, order):
    return Done(f"{order.total:.2f}")
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
    written = [f"{made.name}.payments.commands", f"{made.name}.shipping.commands", f"{made.name}.replies"]
    (tmp_path / "segue.toml").write_text(
        f'[avro]\nregistry = "{registry.url}"\nproperties = {{ "basic.auth.user.info" = "ann:secret" }}\n'
        "[avro.topics]\n" + "".join(f'"{topic}" = "{{topic}}-{{type}}"\n' for topic in written),
        "utf-8",
    )
    registry.register(f"{written[0]}-payments.charge", ORDER)
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
        self._write = AvroSerializer(client, json.dumps(DONE))
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
        self.orders.append(self._read(message.value(), SerializationContext(self.commands, MessageField.VALUE)))
        headers = dict(message.headers() or [])
        value = self._write({"number": "p-1"}, SerializationContext(self.replies, MessageField.VALUE))
        # No content type: what begins with a zero byte is known by it.
        self._producer.produce(
            self.replies, value, key=headers["ce_sagaid"], headers=[("ce_causationid", headers["ce_id"])]
        )
        self._producer.flush(10)


def test_sagas_workers_and_services_of_others_speak_avro_in_both_directions(
    deployment: Deployment, kafka_bootstrap: str, registry: SchemaRegistry
) -> None:
    deployment.segue("db", "upgrade")
    deployment.segue("topics", "create")
    client = SchemaRegistryClient({"url": registry.url, "basic.auth.user.info": "ann:secret"})
    shipping = Shipping(deployment, kafka_bootstrap, client)
    try:
        deployment.run("coordinator", "run")
        deployment.run("worker", "run", "payments:worker")
        requests = f"{deployment.name}.requests"
        begin = AvroSerializer(client, json.dumps(ORDER))
        producer = Producer({"bootstrap.servers": kafka_bootstrap})
        producer.produce(
            requests,
            begin({"id": "o-1", "total": Decimal("120.50")}, SerializationContext(requests, MessageField.VALUE)),
            key="order-1",
            headers=[
                ("ce_specversion", "1.0"),
                ("ce_id", fresh_id()),
                ("ce_source", "/test"),
                ("ce_type", "order"),
                ("ce_sagaid", "order-1"),
                ("ce_sagaaction", "start"),
            ],
        )
        producer.flush(10)
        give_up = SYSTEM_CLOCK.monotonic() + DEADLINE
        done: Any = {}
        while done.get("status") != "completed" and SYSTEM_CLOCK.monotonic() < give_up:
            listed = deployment.json("saga", "ls")["sagas"]
            done = listed[0] if listed else {}
        assert done["status"] == "completed", deployment.log()
    finally:
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
