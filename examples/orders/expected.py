"""What must become of each order, told from the files alone, before anything has run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from examples.orders.contracts import Order
from examples.orders.files import opening_balances, opening_stock
from examples.orders.sagas import SHIP_ATTEMPTS
from examples.orders.world import down_for, refuses


def expected_statuses(orders: Iterable[Order]) -> dict[str, str]:
    """The status in which each order's saga ends."""
    balances, stock = dict(opening_balances()), dict(opening_stock())
    return {order.id: _expected(order, balances, stock) for order in orders}


def _expected(order: Order, balances: Mapping[str, Decimal], stock: Mapping[str, int]) -> str:
    if balances[order.account] < order.total:
        return "failed"  # the very first step said no: there is nothing to compensate
    if stock[order.sku] < order.quantity:
        return "compensated"
    if refuses("carrier", order.trouble) or down_for("carrier", order.trouble) >= SHIP_ATTEMPTS:
        return "compensated"
    return "completed"


def mail_expected(order: Order) -> bool:
    """Whether a completed order is confirmed by mail; the saga completes without."""
    return not refuses("mailbox", order.trouble)
