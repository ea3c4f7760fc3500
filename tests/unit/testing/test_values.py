"""What the kit says of values that do not survive the way to a service and back, as production does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field, SecretStr

from segue.contract import Activity, minutes
from segue.saga import ActivityRejected, Saga, saga
from segue.testing import SagaTest, SagaTestError
from tests.unit.testing.shop import ORDER, Charged, Order, charge, refund


class Card(BaseModel):
    number: SecretStr


class Parcel(BaseModel):
    order_id: str = Field(alias="orderId")


@dataclass(frozen=True)
class Rush(Order):
    hours: int = 4


pay = Activity("payments.pay", Card)
send = Activity("shipping.send", Parcel, Parcel)


@saga("pays")
async def pays(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund, on_failure="park")
    return "paid"


def test_a_person_who_resolves_a_step_without_its_output_blocks_the_saga_and_undoes_nothing() -> None:
    t = SagaTest(pays)
    t.mock(charge, raises=ActivityRejected("declined"))
    t.resolve_step(charge, "success", after=minutes(1))
    outcome = t.run(ORDER, may_block=True)
    assert (outcome.status, outcome.attention) == ("running", "blocked")
    assert t.compensated == []


def test_a_mock_can_not_answer_with_nothing_where_the_contract_promises_something() -> None:
    t = SagaTest(pays)
    with pytest.raises(SagaTestError, match=r"payments.charge can't answer None: expected Charged"):
        t.mock(charge, returns=None)  # type: ignore[misc]


def test_an_input_that_would_lose_something_blocks_the_saga_at_its_call() -> None:
    @saga("loses")
    async def loses(s: Saga, which: str) -> None:
        if which == "secret":
            await s.call(pay, Card(number=SecretStr("4242")))
        else:
            await s.call(charge, Rush("o-1", "ann", ORDER.total))

    for which, why in (("secret", "written as stars"), ("subclass", "Rush has it, Order has not")):
        t = SagaTest(loses)
        t.mock(charge, returns=Charged("c"))
        outcome = t.run(which, may_block=True)
        assert outcome.attention == "blocked"
        assert why in str(outcome.error)


def test_aliases_arrive_as_they_are_written() -> None:
    @saga("sends")
    async def sends(s: Saga, order: str) -> str:
        return (await s.call(send, Parcel(orderId=order))).order_id

    t = SagaTest(sends)
    t.mock(send, lambda parcel: Parcel(orderId=f"got {parcel.order_id}"))
    assert t.run("o-1").result == "got o-1"
