"""The saga: pay, reserve stock, ship, confirm; and, where that fails, everything back in reverse order."""

from __future__ import annotations

from examples.orders.contracts import Order, Shipped, charge, confirm, recall, refund, release, reserve, ship
from segue.saga import Retry, Saga, hours, minutes, saga

#: Tries of a shipment, the first included.
SHIP_ATTEMPTS = 3


@saga("order", version=1, deadline=hours(1))
async def order_saga(s: Saga, order: Order) -> Shipped:
    """An exception that leaves this function undoes what was done: a failing shipment releases and refunds."""
    await s.call(charge, order, compensate=refund, timeout=minutes(5))
    await s.call(reserve, order, compensate=release)
    shipped = await s.call(ship, order, compensate=recall, retry=Retry(attempts=SHIP_ATTEMPTS, factor=2))
    await s.call(confirm, shipped, optional=True)
    return shipped
