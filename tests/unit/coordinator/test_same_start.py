"""A start that is repeated: the same bytes are the same start, and so is the same value, however it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from segue.contract import Activity, Signal
from segue.coordinator.memory import MemoryStore
from segue.coordinator.store import DeadLetterRow
from segue.saga import Saga, saga
from segue.saga.definition import SagaDefinition
from segue.topics.envelope import Request
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock

never = Signal("never", str)


@dataclass
class Plain:
    a: float = 0.0
    d: Decimal = Decimal(0)
    t: datetime | None = None


class Camel(BaseModel):
    order_id: str = Field(alias="orderId")


class Hidden(BaseModel):
    card: SecretStr


def waiting(input_type: Any) -> SagaDefinition[Any, Any]:
    async def wait(s: Saga, n: Any) -> str:
        return await s.receive(never)

    wait.__annotations__["n"] = input_type
    return saga("w")(wait)


def estate_of(definition: SagaDefinition[Any, Any]) -> Estate:
    clock = ManualClock()
    return Estate(MemoryStore(clock.now), [definition], clock)


def letters(estate: Estate) -> list[DeadLetterRow]:
    assert isinstance(estate.store, MemoryStore)
    return list(estate.store.tables.letters.values())


def start(estate: Estate, n: int, body: bytes) -> None:
    request = Request(id=f"00000000-0000-4000-8000-00000000000{n}", action="start", saga_id="x", name="w")
    estate.send(NAMES.requests, "x", body, request.headers())
    estate.run()


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"d":"1.0"}', b'{"d":1.00}'),
        (b"{}", b'{"a":0.0,"d":"0","t":null}'),
        (b'{"t":"2026-01-01T00:00:00Z"}', b'{"t":"2026-01-01T01:00:00+01:00"}'),
    ],
)
def test_an_equal_input_attaches_however_it_is_written(first: bytes, again: bytes) -> None:
    estate = estate_of(waiting(Plain))
    start(estate, 1, first)
    start(estate, 2, again)
    assert not letters(estate)


def test_another_input_does_not_attach() -> None:
    estate = estate_of(waiting(Plain))
    start(estate, 1, b'{"a":1}')
    start(estate, 2, b'{"a":2}')
    assert [letter.reason for letter in letters(estate)] == ["start_conflict"]


def test_the_same_bytes_attach_after_a_deploy_that_changed_a_default() -> None:
    def version(default: str) -> SagaDefinition[Any, Any]:
        @dataclass
        class Order:
            id: str
            currency: str = default

        return waiting(Order)

    estate = estate_of(version("EUR"))
    start(estate, 1, b'{"id":"o-1"}')
    estate.coordinators[0].close()
    estate.coordinators = [estate.coordinator([version("USD")])]
    start(estate, 2, b'{"id":"o-1"}')
    assert not letters(estate)
    assert estate.saga("x").input == b'{"id":"o-1","currency":"EUR"}'
    start(estate, 3, b'{"id":"o-1","currency":"USD"}')
    assert [letter.reason for letter in letters(estate)] == ["start_conflict"]


def test_an_input_read_by_alias_reaches_the_code_and_the_service_by_alias() -> None:
    charge = Activity("payments.charge", Camel)

    @saga("w")
    async def camel(s: Saga, order: Camel) -> str:
        await s.call(charge, order)
        return order.order_id

    estate = estate_of(camel)
    estate.answers["payments.charge"] = lambda command: ("success", None)
    start(estate, 1, b'{"orderId":"o-1"}')
    assert estate.saga("x").result == b'"o-1"'
    assert estate.bodies == [{"orderId": "o-1"}]


def test_a_start_whose_input_type_loses_something_is_a_dead_letter_with_a_sentence() -> None:
    estate = estate_of(waiting(Hidden))
    start(estate, 1, b'{"card":"4242"}')
    [letter] = letters(estate)
    assert letter.reason == "invalid_input"
    assert "SecretStr is written as stars" in letter.error_message
