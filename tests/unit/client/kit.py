"""A client beside a whole estate in one thread: whenever it waits, the coordinator and the participants work."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from segue.contract import Attribute, Signal
from segue.saga import Saga, SagaFailed, saga
from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import Order, Shipped, charge, refund, ship

ORDER = Order()
decision = Signal("decision", bool)
progress = Attribute("progress", float)
note = Attribute("note", str)


@saga("order")
async def order_saga(s: Saga, order: Order) -> Shipped:
    await s.call(charge, order, compensate=refund)
    s.set(progress, 0.5)
    return await s.call(ship, order)


@saga("reviewed")
async def reviewed(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund)
    if not await s.receive(decision):
        raise SagaFailed("declined", "by ann")
    return "approved"


@saga("returned")
async def returned(s: Saga, order: Order) -> Shipped:
    await s.call(charge, order, compensate=refund)
    return s.compensated(Shipped("not needed"))


@saga("nothing")
async def nothing(s: Saga, order: Order) -> None:
    await s.call(charge, order)


@saga("not-deployed")
async def not_deployed(s: Saga, order: Order) -> None:
    await s.call(charge, order)


@saga("nothing")
async def misunderstood(s: Saga, count: int) -> None:
    """What the coordinator knows under another type of input."""


class EstateWaiter:
    """The client's clock: while it sleeps the estate runs."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.estate.clock.now()

    def monotonic(self) -> float:
        return self.estate.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.estate.clock.advance(timedelta(seconds=seconds))
        self.estate.run()

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.sleep(seconds)


class Creeping:
    """A clock that moves a second with every look at it, so that nobody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


def texts(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}
