"""A bank: one program, run once for each of the three, with the bank's name in BANK and a database of its own.

BANK=bank_a python -m examples.transfer.bank              # its tables, and what its customers have
BANK=bank_a segue worker run examples.transfer.bank:worker
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.database import connect
from examples.transfer.contracts import Posting, banks
from examples.transfer.workload import Opening, openings
from segue.activities import Context, Rejected, Undo, Worker


class Base(DeclarativeBase):
    """The tables of a bank."""


class Account(Base):
    """What a customer can dispose of. A payment that is taken back may leave less than nothing."""

    __tablename__ = "account"
    id: Mapped[str] = mapped_column(primary_key=True)
    opening: Mapped[int]
    balance: Mapped[int]
    closed: Mapped[bool]


class Hold(Base):
    """Money that is neither here nor there: taken from the balance, not yet the payees'. open, settled or released."""

    __tablename__ = "hold"
    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[str] = mapped_column(index=True)
    account_id: Mapped[str]
    amount: Mapped[int]
    state: Mapped[str] = mapped_column(default="open")


class Movement(Base):
    """A change of a balance, and why: hold, release, deposit, take_back."""

    __tablename__ = "movement"
    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[str] = mapped_column(index=True)
    account_id: Mapped[str]
    amount: Mapped[int]
    kind: Mapped[str]


class OutOfReach(Exception):
    """The bank's own systems do not answer. Any exception but `Rejected` makes Segue try again."""


name = os.environ.get("BANK", "bank_a")
bank = banks[name]
sessions = connect(name)
worker = Worker(name, sessions=sessions)


@worker.handle(bank.hold)
def hold(ctx: Context[Session], posting: Posting) -> None:
    account = _account(ctx, posting)
    if account.balance < posting.amount:
        raise Rejected("insufficient_funds", f"{account.id} has {account.balance} cents, not {posting.amount}")
    ctx.session.add(Hold(transfer_id=posting.transfer_id, account_id=account.id, amount=posting.amount))
    _move(ctx, account, posting, -posting.amount, "hold")


@worker.handle(bank.release)
def release(ctx: Context[Session], undo: Undo[Posting, None]) -> None:
    posting = undo.input
    _held(ctx, posting).state = "released"
    _move(ctx, _account(ctx, posting), posting, posting.amount, "release")


@worker.handle(bank.deposit)
def deposit(ctx: Context[Session], posting: Posting) -> None:
    if ctx.attempt <= posting.outages:
        raise OutOfReach(f"{name} does not answer")
    account = _account(ctx, posting)
    if account.closed:
        raise Rejected("account_closed", f"{account.id} is closed")
    _move(ctx, account, posting, posting.amount, "deposit")


@worker.handle(bank.take_back)
def take_back(ctx: Context[Session], undo: Undo[Posting, None]) -> None:
    posting = undo.input
    _move(ctx, _account(ctx, posting), posting, -posting.amount, "take_back")


@worker.handle(bank.settle)
def settle(ctx: Context[Session], posting: Posting) -> None:
    _held(ctx, posting).state = "settled"


def _account(ctx: Context[Session], posting: Posting) -> Account:
    return ctx.session.get_one(Account, posting.account, with_for_update=True)


def _held(ctx: Context[Session], posting: Posting) -> Hold:
    query = select(Hold).where(Hold.transfer_id == posting.transfer_id, Hold.state == "open")
    return ctx.session.scalars(query).one()


def _move(ctx: Context[Session], account: Account, posting: Posting, amount: int, kind: str) -> None:
    account.balance += amount
    ctx.session.add(Movement(transfer_id=posting.transfer_id, account_id=account.id, amount=amount, kind=kind))


def install(accounts: Iterable[Opening]) -> None:
    """Create the tables and open the accounts, once; stands in for the bank's migrations and its history."""
    Base.metadata.create_all(sessions.kw["bind"])
    worker.create_tables()
    with sessions.begin() as session:
        if session.scalar(select(Account.id).limit(1)) is None:
            session.add_all(
                Account(id=one.account, opening=one.balance, balance=one.balance, closed=one.closed) for one in accounts
            )


if __name__ == "__main__":
    install(openings(name))
