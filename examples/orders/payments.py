"""The service `payments`: accounts, and a ledger in which nothing is ever changed.

python -m examples.orders.payments                        # its tables, and what customers have
segue worker run examples.orders.payments:worker
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.database import connect, now
from examples.orders import world
from examples.orders.contracts import Charged, Order, charge, refund
from examples.orders.files import opening_balances
from segue.activities import Context, Rejected, Undo, Worker


class Base(DeclarativeBase):
    """The tables of this service."""


class Account(Base):
    """What a customer has; amounts in cents."""

    __tablename__ = "account"
    id: Mapped[str] = mapped_column(primary_key=True)
    opening: Mapped[int]
    balance: Mapped[int]


class Entry(Base):
    """A line of the ledger: a charge is negative, a refund positive."""

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(index=True)
    account_id: Mapped[str]
    amount: Mapped[int]
    key: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now)


sessions = connect("payments")
worker = Worker("payments", sessions=sessions)


@worker.handle(charge)
def charge_order(ctx: Context[Session], order: Order) -> Charged:
    account = ctx.session.get_one(Account, order.account, with_for_update=True)
    amount = cents(order.total)
    if account.balance < amount:
        raise Rejected("insufficient_funds", f"{order.account} has {account.balance / 100:.2f}, not {order.total}")
    world.reach("bank", order.trouble, ctx.attempt)
    account.balance -= amount
    ctx.session.add(_entry(ctx, order, -amount))
    return Charged(charge_id=ctx.idempotency_key)


@worker.handle(refund)
def refund_order(ctx: Context[Session], undo: Undo[Order, Charged]) -> None:
    order = undo.input
    world.reach("cashier", order.trouble, ctx.attempt)
    account = ctx.session.get_one(Account, order.account, with_for_update=True)
    account.balance += cents(order.total)
    ctx.session.add(_entry(ctx, order, cents(order.total)))


def _entry(ctx: Context[Session], order: Order, amount: int) -> Entry:
    return Entry(order_id=order.id, account_id=order.account, amount=amount, key=ctx.idempotency_key)


def cents(amount: Decimal) -> int:
    """Whole cents: no database rounds them."""
    return int(amount * 100)


def install(balances: Iterable[tuple[str, Decimal]]) -> None:
    """Create the tables and open the accounts, once; stands in for the service's migrations and its history."""
    Base.metadata.create_all(sessions.kw["bind"])
    worker.create_tables()
    with sessions.begin() as session:
        if session.scalar(select(Account.id).limit(1)) is None:
            session.add_all(
                Account(id=name, opening=cents(balance), balance=cents(balance)) for name, balance in balances
            )


if __name__ == "__main__":
    install(opening_balances())
