# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What the type checkers must infer of clients and the outbox, and what they must refuse; nothing here is run.

Every line with an ignore is a mistake that must be found, as in `sagas.py`.
"""

from __future__ import annotations

from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from segue import outbox
from segue.client import AsyncClient, AsyncHandle, Client, Handle, Status
from segue.contract import minutes
from tests.typing.sagas import Decision, Order, Shipped, bulk_ship, decision, order_saga, reviewed_order, shipped_share


def in_threads(client: Client, order: Order, session: Session) -> None:
    handle = client.start(order_saga, order, id="order-17")
    assert_type(handle, Handle[Shipped])
    assert_type(handle.result(timeout=minutes(2)), Shipped)
    assert_type(handle.status(), Status)
    assert_type(client.start(reviewed_order, order, session=session), Handle[None])
    assert_type(client.start(bulk_ship, [order]).result(), int)
    assert_type(client.handle(order_saga, "order-18"), Handle[Shipped])
    assert_type(client.handle("order", "order-18").result(), Any)
    assert_type(client.handle(bulk_ship, "bulk-3").query(shipped_share), float | None)
    client.handle(reviewed_order, "order-18").signal(decision, Decision(True), id="click", session=session)
    client.handle("order", "order-18").cancel("the customer called", compensate="to:payments.charge")
    assert_type(outbox.add(session, "orders.events", order, key=order.id, type="order.placed"), str)


async def on_a_loop(client: AsyncClient, order: Order, session: AsyncSession, connection: AsyncConnection) -> None:
    handle = await client.start(order_saga, order, id="order-17", session=session)
    assert_type(handle, AsyncHandle[Shipped])
    assert_type(await handle.result(timeout=minutes(2)), Shipped)
    assert_type(await (await client.start(bulk_ship, [order], session=connection)).result(), int)
    assert_type(await client.handle(bulk_ship, "bulk-3").query(shipped_share), float | None)
    assert_type(client.handle("order", "order-18"), AsyncHandle[Any])
    await client.handle(reviewed_order, "order-18").signal(decision, Decision(True))
    outbox.add(session, "orders.events", order, key=order.id, type="order.placed")


def mistakes(client: Client, order: Order, shipped: Shipped, handle: Handle[Shipped]) -> None:
    client.start(order_saga, shipped)  # type: ignore[misc] # another input
    client.start(bulk_ship, order)  # type: ignore[misc] # one instead of a list
    client.start("order", order)  # type: ignore[arg-type] # a start needs the definition
    client.start(order_saga, order, timeout=30)  # type: ignore[arg-type] # seconds without a unit
    client.start(order_saga, order, session="session")  # type: ignore[arg-type] # no session
    handle.result(timeout=30)  # type: ignore[arg-type] # seconds without a unit
    handle.signal(decision, True)  # type: ignore[misc] # another type of signal
    _text: str | None = handle.query(shipped_share)  # type: ignore[assignment] # another type of attribute
    _number: float = handle.query(shipped_share)  # type: ignore[assignment] # may not be set
    _length: int = handle.result()  # type: ignore[assignment] # another output
    outbox.add(None, "orders.events", order, key=order.id, type="placed")  # type: ignore[arg-type] # no session


async def mistakes_on_a_loop(client: AsyncClient, order: Order, shipped: Shipped) -> None:
    await client.start(order_saga, shipped)  # type: ignore[misc] # another input
    await client.handle(reviewed_order, "x").signal(decision, shipped)  # type: ignore[misc] # another type of signal
    _length: int = await client.handle(order_saga, "x").result()  # type: ignore[assignment] # another output
