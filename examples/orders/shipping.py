"""The service `shipping`: parcels, handed to a carrier that is not always there.

python -m examples.orders.shipping                        # its tables
segue worker run examples.orders.shipping:worker
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.database import connect, now
from examples.orders import world
from examples.orders.contracts import Order, Shipped, recall, ship
from segue.activities import Context, Rejected, Undo, Worker


class Base(DeclarativeBase):
    """The tables of this service."""


class Shipment(Base):
    """A parcel that left the house."""

    __tablename__ = "shipment"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(index=True)
    address: Mapped[str]
    tracking: Mapped[str]
    recalled: Mapped[bool] = mapped_column(default=False)
    at: Mapped[datetime] = mapped_column(default=now)


sessions = connect("shipping")
worker = Worker("shipping", sessions=sessions)


@worker.handle(ship)
def ship_order(ctx: Context[Session], order: Order) -> Shipped:
    world.reach("carrier", order.trouble, ctx.attempt)
    if world.refuses("carrier", order.trouble):
        raise Rejected("no_courier", f"nobody drives to {order.address}")
    shipment = Shipment(order_id=order.id, address=order.address, tracking=f"T-{order.id}")
    ctx.session.add(shipment)
    return Shipped(order_id=order.id, account=order.account, tracking=shipment.tracking, trouble=order.trouble)


@worker.handle(recall)
def recall_order(ctx: Context[Session], undo: Undo[Order, Shipped]) -> None:
    # The output may be missing (the coordinator never heard what became of the command), the order never is.
    ctx.session.execute(update(Shipment).where(Shipment.order_id == undo.input.id).values(recalled=True))


def install() -> None:
    """Create the tables; stands in for the service's migrations."""
    Base.metadata.create_all(sessions.kw["bind"])
    worker.create_tables()


if __name__ == "__main__":
    install()
