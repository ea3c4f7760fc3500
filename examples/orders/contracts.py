"""What the order saga and the four services agree on. Both sides import this module, and neither imports the other."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from segue.contract import Activity


@dataclass(frozen=True)
class Order:
    """A line of `orders.csv`. `trouble` says what the world outside will do to it; see `world.py`."""

    id: str
    account: str
    sku: str
    quantity: int
    total: Decimal
    address: str
    trouble: str = ""


@dataclass(frozen=True)
class Charged:
    """The bank's receipt."""

    charge_id: str


@dataclass(frozen=True)
class Shipped:
    """The parcel that is on its way, and to whom the confirmation goes."""

    order_id: str
    account: str
    tracking: str
    trouble: str = ""


charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")
reserve = Activity("stock.reserve", Order)
release = reserve.undo("stock.release")
ship = Activity("shipping.ship", Order, Shipped)
recall = ship.undo("shipping.recall")
confirm = Activity("mail.confirm", Shipped)
