"""The sagas that are measured: four trivial steps, a wide gather, a wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from random import Random

from segue.contract import Activity, Signal, days, hours
from segue.saga import Registry, Retry, Saga, saga

SERVICES = ("payments", "stock", "shipping", "mail")
#: Marks an order whose fourth step is rejected.
UNLUCKY = "unlucky"


@dataclass(frozen=True)
class Order:
    """About 300 bytes as JSON, with the note that `order` fills in."""

    id: str
    account: str
    note: str = ""


@dataclass(frozen=True)
class Done:
    """What each step answers."""

    ok: bool


charge = Activity("payments.charge", Order, Done)
refund = charge.undo("payments.refund")
reserve = Activity("stock.reserve", Order, Done)
release = reserve.undo("stock.release")
ship = Activity("shipping.ship", Order, Done)
recall = ship.undo("shipping.recall")
confirm = Activity("mail.confirm", Order, Done)
#: Takes as long as its service is told to.
labour = Activity("labour.work", int, Done)
go = Signal("go", bool)


@saga("four")
async def four(s: Saga, order: Order) -> Done:
    """Four steps in a row, three of them with a compensation."""
    await s.call(charge, order, compensate=refund, timeout=hours(1))
    await s.call(reserve, order, compensate=release, timeout=hours(1))
    await s.call(ship, order, compensate=recall, timeout=hours(1))
    return await s.call(confirm, order, timeout=hours(1))


@dataclass(frozen=True)
class Wide:
    """How many calls at once, or one after another."""

    calls: int


@saga("gather")
async def gather(s: Saga, wide: Wide) -> int:
    """So many calls at once."""
    order = Order(id="g", account="ann")
    return len(await asyncio.gather(*(s.call(confirm, order, timeout=hours(1)) for _ in range(wide.calls))))


@saga("fan_out")
async def fan_out(s: Saga, wide: Wide) -> int:
    """So many items through real workers, whose handlers take their time."""
    return len(await s.map(labour, list(range(wide.calls)), timeout=hours(1)))


@saga("chain")
async def chain(s: Saga, wide: Wide) -> int:
    """So many calls one after another: the history grows."""
    order = Order(id="c", account="ann")
    for _ in range(wide.calls):
        await s.call(confirm, order, timeout=hours(1))
    return wide.calls


@dataclass(frozen=True)
class Nap:
    """Seconds to sleep."""

    seconds: float


@saga("nap")
async def nap(s: Saga, length: Nap) -> bool:
    """Wait for a timer, then end."""
    await asyncio.sleep(length.seconds)
    return True


@saga("wait")
async def wait(s: Saga, order: Order) -> bool:
    """Wait for a signal, for a month."""
    return await s.receive(go, timeout=days(30))


@dataclass(frozen=True)
class Hasty:
    """Seconds that the one call may take."""

    timeout: float


@saga("hasty")
async def hasty(s: Saga, limit: Hasty) -> Done:
    """One call with a deadline."""
    once = Retry(attempts=1)
    return await s.call(confirm, Order(id="h", account="ann"), timeout=timedelta(seconds=limit.timeout), retry=once)


def registry() -> Registry:
    """All of them."""
    return Registry([four, gather, fan_out, chain, nap, wait, hasty])


_WORDS = ("blue", "copper", "deliver", "eleven", "fragile", "garden", "invoice", "kitchen", "monday", "oven", "paper")


def order(number: int, *, account: str = "ann", size: int = 300) -> Order:
    """An order whose JSON has about `size` bytes."""
    return Order(id=f"o-{number}", account=account, note=_note(number % 1_000, max(0, size - 50)))


@cache
def _note(kind: int, length: int) -> str:
    """Words and numbers: a filler of one letter would compress as no business message does."""
    random = Random(kind)
    return " ".join(f"{random.choice(_WORDS)} {random.randrange(10_000)}" for _ in range(length // 8 + 1))[:length]
