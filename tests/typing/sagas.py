# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What the type checkers must infer of contracts and sagas, and what they must refuse; nothing here is run.

Every line with an ignore is a mistake that must be found: an ignore that is not needed is itself an error, to mypy
(strict) and to basedpyright (the comment above).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import assert_type

from pydantic import BaseModel

from segue.contract import Activity, Attribute, Signal, Undo, hours, minutes
from segue.saga import Retry, Saga, saga


@dataclass(frozen=True)
class Order:
    id: str
    total: Decimal


@dataclass(frozen=True)
class Charged:
    charge_id: str


class Shipped(BaseModel):
    tracking: str


@dataclass(frozen=True)
class Decision:
    approved: bool


charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")
reserve = Activity("stock.reserve", Order)
release = reserve.undo("stock.release")
ship = Activity("shipping.ship", Order, Shipped)
recall = ship.undo("shipping.recall")
confirm = Activity("mail.confirm", Shipped)
fraud_score = Activity("risk.fraud", Order, int, readonly=True)
credit_score = Activity("risk.credit", Order, float, readonly=True)
decision = Signal("decision", Decision)
shipped_share = Attribute("shipped_share", float)

assert_type(charge, Activity[Order, Charged])
assert_type(reserve, Activity[Order, None])
assert_type(refund, Activity[Undo[Order, Charged], None])
assert_type(release, Activity[Undo[Order, None], None])


@saga("order", version=1, deadline=hours(1))
async def order_saga(s: Saga, order: Order) -> Shipped:
    charged = await s.call(charge, order, compensate=refund, timeout=minutes(5))
    assert_type(charged, Charged)
    await s.call(reserve, order, compensate=release)
    shipped = await s.call(ship, order, compensate=recall, retry=Retry(attempts=3, factor=2))
    assert_type(shipped, Shipped)
    assert_type(await s.call(ship, order, optional=True), Shipped | None)
    await s.call(confirm, shipped, optional=True)
    return shipped


@saga("reviewed-order", deadline=hours(48))
async def reviewed_order(s: Saga, order: Order) -> None:
    async with asyncio.timeout(30):
        fraud, credit = await asyncio.gather(s.call(fraud_score, order), s.call(credit_score, order))
    assert_type(fraud, int)
    assert_type(credit, float)
    answer = await s.receive(decision, timeout=hours(24))
    assert_type(answer, Decision)
    s.set(shipped_share, fraud + credit)


@saga("bulk-ship")
async def bulk_ship(s: Saga, orders: list[Order]) -> int:
    results = await s.map(ship, orders, compensate=recall, concurrency=50, return_exceptions=True)
    assert_type(results, list[Shipped | BaseException])
    assert_type([result for result in results if isinstance(result, Shipped)], list[Shipped])
    assert_type(await s.map(ship, orders), list[Shipped])
    assert_type(await s.map(reserve, orders, return_exceptions=False), list[None])
    await s.sleep(minutes(5))
    return len(results)


async def mistakes(s: Saga, order: Order, shipped: Shipped) -> None:
    await s.call(charge, shipped)  # type: ignore[misc] # another input
    await s.call(charge, order, compensate=recall)  # type: ignore[misc] # another step's compensation
    await s.call(charge, order, compensate=release)  # type: ignore[misc] # the same input, another output
    await s.call(ship, order, compensate=charge)  # type: ignore[arg-type] # not a compensation
    await s.map(ship, [shipped])  # type: ignore[misc] # other inputs
    await s.call(charge, order, timeout=30)  # type: ignore[call-overload] # seconds without a unit
    s.set(shipped_share, "half")  # type: ignore[misc] # another type of attribute


@saga("takes-back")
async def takes_back(s: Saga, order: Order) -> Shipped:
    shipped = await s.call(ship, order, compensate=recall)
    async with s.scope("part") as part:
        assert_type(await s.call(charge, order, compensate=refund), Charged)
    assert_type(part.undone, bool)
    await s.undo(ship)
    await s.undo("shipping.ship#2")
    await s.undo(3)  # type: ignore[arg-type]
    return s.compensated(shipped)


@saga("wrong-result")
async def wrong_result(s: Saga, order: Order) -> Shipped:
    return s.compensated(order)  # type: ignore[return-value]
