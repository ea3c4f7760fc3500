"""The web example, as the how-to shows it: what its transactions leave in the outbox is published and becomes sagas."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine

from examples.web import app as web
from examples.web.contracts import Decision, Order, charge, decision, refund
from examples.web.sagas import web_order
from segue import outbox
from segue.coordinator.service import Coordinator
from segue.coordinator.sql import SqlStore
from segue.migrations import upgrade
from segue.saga import Registry, hours
from segue.testing import SagaTest
from segue.topics import MemoryBroker, TopicNames

NAMES = TopicNames(coordinator="shop")
ORDER = {"id": "17", "account": "ann", "cents": 900}


class Shop:
    """The application over a broker in memory, and a coordinator beside it that is driven by hand."""

    def __init__(self, folder: Path) -> None:
        self.broker = MemoryBroker(partitions=1)
        for topic in (NAMES.requests, NAMES.replies, NAMES.dlq, "orders.events"):
            self.broker.create_topic(topic)
        self.own, self.coordinators = f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/segue.db"
        upgrade(self.coordinators)
        self.engine = create_engine(self.own)
        web.Base.metadata.create_all(self.engine)
        outbox.create_all(self.engine)
        self.app = web.make(
            self.own.replace("sqlite:", "sqlite+aiosqlite:"), self.broker.producer(), "shop", self.coordinators
        )

    async def ask(self, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
        """Send requests to the application while it lives; its relay runs beside it."""
        transport = httpx.ASGITransport(app=self.app)
        async with (
            self.app.router.lifespan_context(self.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as http,
        ):
            return [await http.request(method, path, json=body) for method, path, body in requests]

    def publish(self) -> None:
        """What the application's relay had no time for."""
        relay = outbox.Relay(self.engine, self.broker.producer())
        while relay.step() or not relay.idle:
            pass
        relay.shut()

    def coordinate(self) -> None:
        store = SqlStore(self.coordinators)
        registry = Registry([web_order])
        coordinator = Coordinator(NAMES, registry, store, self.broker.consumer("shop"), self.broker.producer())
        for _ in range(20):
            coordinator.step()
        store.close()


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    made = Shop(tmp_path)
    yield made
    made.engine.dispose()


def test_an_order_its_event_and_its_saga_come_from_one_transaction(shop: Shop) -> None:
    [placed] = asyncio.run(shop.ask(("POST", "/orders", ORDER)))
    assert (placed.status_code, placed.json()) == (202, {"saga": "order-17"})
    shop.publish()
    [event] = shop.broker.records("orders.events")
    assert event.key == b"17"
    shop.coordinate()
    assert len(shop.broker.records("payments.commands")) == 1


def test_a_transaction_that_is_rolled_back_leaves_neither(shop: Shop) -> None:
    first, second = asyncio.run(shop.ask(("POST", "/orders", ORDER), ("POST", "/orders", ORDER)))
    assert (first.status_code, second.status_code) == (202, 409)
    shop.publish()
    assert len(shop.broker.records(NAMES.requests)) == 1
    assert len(shop.broker.records("orders.events")) == 1


def test_where_it_is_is_read_from_the_row_and_a_decision_goes_the_same_way(shop: Shop) -> None:
    asyncio.run(shop.ask(("POST", "/orders", ORDER)))
    shop.publish()
    shop.coordinate()
    again = Shop.__new__(Shop)
    again.__dict__.update(shop.__dict__)
    again.app = web.make(
        shop.own.replace("sqlite:", "sqlite+aiosqlite:"), shop.broker.producer(), "shop", shop.coordinators
    )
    said = {"approved": True, "by": "ann"}
    known, unknown, decided = asyncio.run(
        again.ask(("GET", "/orders/17", None), ("GET", "/orders/18", None), ("POST", "/orders/17/decision", said))
    )
    assert known.json() == {"status": "running", "waits_for": "the reply of payments.charge"}
    assert unknown.status_code == 404
    assert decided.status_code == 202
    shop.publish()
    assert len(shop.broker.records(NAMES.requests)) == 2


def dear(approved: bool | None) -> Any:
    test = SagaTest(web_order)
    test.mock(charge, returns=None)
    if approved is not None:
        test.signal(decision, Decision(approved, "ann"), after=hours(1))
    return test, test.run(Order("17", "ann", 20_000))


def test_a_dear_order_waits_for_a_decision_and_is_refunded_without_one() -> None:
    assert dear(True)[1].status == "completed"
    test, outcome = dear(False)
    assert (outcome.status, test.compensated) == ("compensated", [refund])
    test, outcome = dear(None)
    assert (outcome.status, test.compensated) == ("compensated", [refund])
    assert outcome.elapsed >= hours(24)
