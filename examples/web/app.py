"""FastAPI with an outbox: the order's row and its saga exist both, or neither.

SHOP_DATABASE=postgresql+psycopg://… SEGUE_BOOTSTRAP=localhost:9092 uvicorn examples.web.app:main --factory
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.web.contracts import Decision, Order, decision
from examples.web.sagas import web_order
from segue import outbox
from segue.client import AsyncClient
from segue.errors import NotFound
from segue.topics.broker import Producer
from segue.topics.names import TopicNames


class Base(DeclarativeBase):
    """The application's own tables."""


class OrderRow(Base):
    """An order."""

    __tablename__ = "web_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    cents: Mapped[int]


def make(url: str, producer: Producer, coordinator: str, coordinator_database: str | None = None) -> FastAPI:
    """The application. `url`: its own database, for an async driver; the relay gets a plain one for the same."""
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    plain = create_engine(engine.url.set(drivername=engine.url.drivername.replace("+aiosqlite", "")))
    # Asking needs Kafka or a transaction; reading (`status`) needs the coordinator's database.
    sagas = AsyncClient(TopicNames(coordinator=coordinator), producer, database=coordinator_database)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # The relay publishes what transactions have left in the outbox; several of them share the work.
        async with outbox.Relay(plain, producer), sagas:
            yield
        await engine.dispose()
        plain.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.sagas, app.state.sessions = sagas, sessions
    app.post("/orders", status_code=202)(place_order)
    app.post("/orders/{order_id}/decision", status_code=202)(decide)
    app.get("/orders/{order_id}")(where_is_it)
    return app


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session:
        yield session


def _sagas(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.sagas
    return client


Db = Annotated[AsyncSession, Depends(_session)]
Sagas = Annotated[AsyncClient, Depends(_sagas)]


async def place_order(order: Order, db: Db, sagas: Sagas) -> dict[str, str]:
    """Row, event and saga: one transaction."""
    if await db.get(OrderRow, order.id) is not None:
        raise HTTPException(409, f"there is an order {order.id} already")
    db.add(OrderRow(id=order.id, account=order.account, cents=order.cents))
    outbox.add(db, "orders.events", {"id": order.id}, key=order.id, type="order.placed")
    handle = await sagas.start(web_order, order, id=f"order-{order.id}", session=db)
    await db.commit()
    return {"saga": handle.id}


async def decide(order_id: str, said: Decision, db: Db, sagas: Sagas) -> dict[str, str]:
    """A person's word; with an id of its own, so that a second click is no second signal."""
    handle = sagas.handle(web_order, f"order-{order_id}")
    await handle.signal(decision, said, id=f"decision-{order_id}", session=db)
    await db.commit()
    return {"saga": handle.id}


async def where_is_it(order_id: str, sagas: Sagas) -> dict[str, str | None]:
    """Read from the saga's row; no service is asked."""
    try:
        row = await sagas.handle(web_order, f"order-{order_id}").describe()
    except NotFound:
        raise HTTPException(404, f"order {order_id} is not known, or on its way") from None
    return {"status": row.status, "waits_for": row.waiting_for}


def main() -> FastAPI:
    """For uvicorn."""
    from segue.topics.kafka import KafkaProducer
    from segue.topics.settings import KafkaSettings

    producer = KafkaProducer(KafkaSettings(bootstrap=os.environ["SEGUE_BOOTSTRAP"]))
    return make(os.environ["SHOP_DATABASE"], producer, "shop", os.environ.get("SEGUE_COORDINATOR_DATABASE"))
