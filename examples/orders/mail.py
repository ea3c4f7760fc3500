"""The service `mail`: tells customers that their parcel is on its way. Nobody cancels an order because a mail bounced.

python -m examples.orders.mail                            # its tables
segue worker run examples.orders.mail:worker
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.database import connect, now
from examples.orders import world
from examples.orders.contracts import Shipped, confirm
from segue.activities import Context, Rejected, Worker


class Base(DeclarativeBase):
    """The tables of this service."""


class Mail(Base):
    """A mail that was sent."""

    __tablename__ = "mail"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(index=True)
    recipient: Mapped[str]
    text: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now)


sessions = connect("mail")
worker = Worker("mail", sessions=sessions)


@worker.handle(confirm)
def confirm_order(ctx: Context[Session], shipped: Shipped) -> None:
    if world.refuses("mailbox", shipped.trouble):
        raise Rejected("mailbox_full", f"{shipped.account} has no room for mail")
    text = f"Your parcel {shipped.tracking} is on its way."
    ctx.session.add(Mail(order_id=shipped.order_id, recipient=shipped.account, text=text))


def install() -> None:
    """Create the tables; stands in for the service's migrations."""
    Base.metadata.create_all(sessions.kw["bind"])
    worker.create_tables()


if __name__ == "__main__":
    install()
