"""The example sagas of the documentation, as their users would write them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal

from segue.contract import Activity, Attribute, Signal
from segue.saga import Retry, Saga, SagaFailed, hours, minutes, saga


@dataclass(frozen=True)
class Order:
    id: str
    account: str
    total: Decimal


@dataclass(frozen=True)
class Charged:
    charge_id: str


@dataclass(frozen=True)
class Shipped:
    parcel: str


@dataclass(frozen=True)
class Decision:
    approved: bool
    by: str


ORDER = Order("o-1", "ann", Decimal("9.50"))

charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")
reserve = Activity("stock.reserve", Order)
release = reserve.undo("stock.release")
ship = Activity("shipping.ship", Order, Shipped)
recall = ship.undo("shipping.recall")
confirm = Activity("mail.confirm", Shipped)
fraud_score = Activity("risk.fraud", Order, int, readonly=True)
credit_score = Activity("risk.credit", Order, int, readonly=True)
decision = Signal("decision", Decision)
shipped_share = Attribute("shipped_share", float)


@saga("order", version=1, deadline=hours(1))
async def order_saga(s: Saga, order: Order) -> Shipped:
    """Pay, reserve, ship, and tell the customer; a mail that fails harms nobody."""
    await s.call(charge, order, compensate=refund, timeout=minutes(5))
    await s.call(reserve, order, compensate=release)
    shipped = await s.call(ship, order, compensate=recall, retry=Retry(attempts=3, factor=2))
    await s.call(confirm, shipped, optional=True)
    return shipped


@saga("reviewed-order", deadline=hours(48))
async def reviewed_order(s: Saga, order: Order) -> Shipped:
    """Doubtful orders wait up to a day for a person."""
    async with asyncio.timeout(30):
        fraud, credit = await asyncio.gather(s.call(fraud_score, order), s.call(credit_score, order))
    await s.call(charge, order, compensate=refund)
    if fraud + credit > 80:
        try:
            answer = await s.receive(decision, timeout=hours(24))
        except TimeoutError:
            raise SagaFailed("no_decision") from None
        if not answer.approved:
            raise SagaFailed("declined", f"by {answer.by}")
    return await s.call(ship, order, compensate=recall)


@saga("bulk-ship")
async def bulk_ship(s: Saga, orders: list[Order]) -> int:
    """Ship what can be shipped, and tell the share."""
    results = await s.map(ship, orders, compensate=recall, concurrency=50, return_exceptions=True)
    done = [result for result in results if isinstance(result, Shipped)]
    s.set(shipped_share, len(done) / len(orders))
    return len(done)
