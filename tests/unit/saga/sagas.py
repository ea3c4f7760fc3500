"""The saga that most tests use."""

from __future__ import annotations

from segue.contract import hours, minutes
from segue.saga import Retry, Saga, saga
from tests.unit.saga.kit import Order, Run, Shipped, charge, confirm, recall, refund, release, reserve, ship


@saga("order", deadline=hours(1))
async def order_saga(s: Saga, order: Order) -> Shipped:
    await s.call(charge, order, compensate=refund, timeout=minutes(5))
    await s.call(reserve, order, compensate=release)
    shipped = await s.call(ship, order, compensate=recall, retry=Retry(attempts=3, factor=2))
    await s.call(confirm, shipped, optional=True)
    return shipped


def to_shipping(run: Run) -> Run:
    run.reply("payments.charge")
    run.reply("stock.reserve")
    return run
