"""The service `stock`: what lies in the warehouse, and a book of everything that was taken and put back.

python -m examples.orders.stock                           # its tables, and what there is
segue worker run examples.orders.stock:worker
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.database import connect, now
from examples.orders import world
from examples.orders.contracts import Order, release, reserve
from examples.orders.files import opening_stock
from segue.activities import Context, Rejected, Undo, Worker


class Base(DeclarativeBase):
    """The tables of this service."""


class Item(Base):
    """How many there are of something."""

    __tablename__ = "item"
    sku: Mapped[str] = mapped_column(primary_key=True)
    opening: Mapped[int]
    units: Mapped[int]


class Movement(Base):
    """Units that were taken (negative) or put back (positive)."""

    __tablename__ = "movement"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(index=True)
    sku: Mapped[str]
    units: Mapped[int]
    at: Mapped[datetime] = mapped_column(default=now)


sessions = connect("stock")
worker = Worker("stock", sessions=sessions)


@worker.handle(reserve)
def reserve_order(ctx: Context[Session], order: Order) -> None:
    item = ctx.session.get_one(Item, order.sku, with_for_update=True)
    if item.units < order.quantity:
        raise Rejected("sold_out", f"{order.quantity} of {order.sku} wanted, {item.units} there")
    world.reach("warehouse", order.trouble, ctx.attempt)
    item.units -= order.quantity
    ctx.session.add(Movement(order_id=order.id, sku=order.sku, units=-order.quantity))


@worker.handle(release)
def release_order(ctx: Context[Session], undo: Undo[Order, None]) -> None:
    order = undo.input
    item = ctx.session.get_one(Item, order.sku, with_for_update=True)
    item.units += order.quantity
    ctx.session.add(Movement(order_id=order.id, sku=order.sku, units=order.quantity))


def install(units: Iterable[tuple[str, int]]) -> None:
    """Create the tables and fill the warehouse, once; stands in for the service's migrations and its history."""
    Base.metadata.create_all(sessions.kw["bind"])
    worker.create_tables()
    with sessions.begin() as session:
        if session.scalar(select(Item.sku).limit(1)) is None:
            session.add_all(Item(sku=sku, opening=count, units=count) for sku, count in units)


if __name__ == "__main__":
    install(opening_stock())
