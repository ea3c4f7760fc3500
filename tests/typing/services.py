# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What the type checkers must accept of services and what they must refuse; nothing here is run.

Every line with an ignore is a mistake that must be found, as in `sagas.py`.
"""

from __future__ import annotations

from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from segue.activities import Context, Undo, Worker
from tests.typing.sagas import Charged, Order, Shipped, charge, refund, release, reserve, ship

sessions: sessionmaker[Session] = sessionmaker()
async_sessions: async_sessionmaker[AsyncSession] = async_sessionmaker()
worker = Worker("payments", sessions=sessions)
async_worker = Worker("shipping", sessions=async_sessions)
assert_type(worker, Worker[Session])
assert_type(async_worker, Worker[AsyncSession])


@worker.handle(charge)
def charge_order(ctx: Context[Session], order: Order) -> Charged:
    assert_type(ctx.session, Session)
    return Charged(charge_id=ctx.idempotency_key)


@worker.handle(refund)
def refund_order(ctx: Context[Session], undo: Undo[Order, Charged]) -> None:
    assert_type(undo.input, Order)
    assert_type(undo.output, Charged | None)


@worker.handle(reserve, transaction="manual")
def reserve_order(ctx: Context[Session], order: Order) -> None:
    ctx.heartbeat(1)


@async_worker.handle(ship)
async def ship_order(ctx: Context[AsyncSession], order: Order) -> Shipped:
    await ctx.session.flush()
    return Shipped(tracking=order.id)


def wrong_return(ctx: Context[Session], order: Order) -> Shipped:
    return Shipped(tracking=order.id)


def wrong_input(ctx: Context[Session], order: Shipped) -> Charged:
    return Charged(order.tracking)


def right(ctx: Context[Session], order: Order) -> Charged:
    return Charged(order.id)


async def of_a_loop(ctx: Context[AsyncSession], order: Order) -> Charged:
    return Charged(order.id)


def undo_of_nothing(ctx: Context[Session], undo: Undo[Order, None]) -> None:
    """Fits `release`."""


worker.handle(charge)(right)
worker.handle(release)(undo_of_nothing)
async_worker.handle(charge)(of_a_loop)

worker.handle(charge)(wrong_return)  # type: ignore[arg-type] # another output
worker.handle(charge)(wrong_input)  # type: ignore[arg-type] # another input
worker.handle(refund)(undo_of_nothing)  # type: ignore[arg-type] # another step's compensation
worker.handle(reserve)(right)  # type: ignore[arg-type] # replies where nothing is expected
async_worker.handle(charge)(right)  # type: ignore[arg-type] # a handler for threads
worker.handle(charge)(of_a_loop)  # type: ignore[arg-type] # a handler for a loop
worker.handle(charge, transaction="none")  # type: ignore[arg-type] # no such mode
