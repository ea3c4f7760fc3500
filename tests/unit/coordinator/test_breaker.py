"""The breaker holds undos back that nobody asked for, and lets them go on by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from segue.contract import hours, minutes
from segue.coordinator.memory import MemoryBatch, MemoryStore
from segue.coordinator.service import Options
from segue.errors import ConfigError, StoreUnavailable
from segue.saga import Saga, SagaFailed, saga
from tests.unit.coordinator.kit import Estate, ManualClock
from tests.unit.saga.kit import Order, charge, decision, refund
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]
TWO_PER_MINUTE = Options(undos_per_minute=2)


def refusing(estate: Make) -> Estate:
    e = estate(order_saga, options=TWO_PER_MINUTE)
    e.answers["stock.reserve"] = lambda c: ("failure", None, {"error": "sold_out"})
    for n in range(5):
        e.start(order_saga, Order(), f"o-{n}")
    e.run()
    return e


def statuses(e: Estate) -> list[str]:
    return sorted(e.saga(f"o-{n}").status for n in range(5))


def test_more_undos_than_allowed_in_a_minute_are_held_and_say_so(estate: Make) -> None:
    e = refusing(estate)
    assert statuses(e) == ["compensated", "compensated", "running", "running", "running"]
    held = next(e.saga(f"o-{n}") for n in range(5) if e.saga(f"o-{n}").status == "running")
    assert held.attention == "parked"
    assert held.waiting_for == "the breaker: too many sagas of this type are being undone"
    assert held.error_code == "sold_out"


def test_held_undos_go_on_when_the_minute_is_over(estate: Make) -> None:
    e = refusing(estate)
    for _ in range(3):
        e.pass_time(timedelta(seconds=61))
    assert statuses(e) == ["compensated"] * 5


def test_a_person_releases_a_held_undo_at_once(estate: Make) -> None:
    e = refusing(estate)
    held = next(n for n in range(5) if e.saga(f"o-{n}").status == "running")
    e.ask("retry", f"o-{held}")
    e.run()
    assert e.saga(f"o-{held}").status == "compensated"


def test_a_held_deadline_is_put_off_and_the_saga_may_still_complete(estate: Make) -> None:
    @saga("slow", deadline=minutes(10))
    async def slow(s: Saga, order: Order) -> bool:
        await s.call(charge, order, compensate=refund)
        return await s.receive(decision)

    e = estate(slow, options=TWO_PER_MINUTE)
    for n in range(4):
        e.start(slow, Order(), f"o-{n}")
    e.run()
    e.pass_time(minutes(10))
    running = [n for n in range(4) if e.saga(f"o-{n}").status == "running"]
    assert len(running) == 2
    e.request("signal", f"o-{running[0]}", "decision", True)
    e.run()
    assert e.saga(f"o-{running[0]}").status == "completed"
    e.pass_time(minutes(2))
    assert e.saga(f"o-{running[1]}").status == "compensated"


def test_a_cancel_is_never_held(estate: Make) -> None:
    e = estate(order_saga, options=Options(undos_per_minute=0))
    e.silent.add("stock.reserve")
    e.start(order_saga, Order(), "o-1")
    e.run()
    e.request("cancel", "o-1", "all")
    e.run()
    assert e.saga("o-1").status == "cancelled"


def test_a_coordinator_that_must_have_all_versions_refuses_to_start_without_one(estate: Make) -> None:
    @saga("order", version=2, deadline=hours(1))
    async def newer(s: Saga, order: Order) -> None: ...

    e = estate(order_saga)
    e.silent.add("payments.charge")
    e.start(order_saga, Order(), "o-1")
    e.run()
    e.options = Options(require_all_versions=True)
    strict: Any = e.coordinator([newer])
    with pytest.raises(ConfigError, match="order version 1"):
        strict.start()


def test_sagas_that_fail_before_they_did_anything_hold_nobody_back(estate: Make) -> None:
    @saga("picky")
    async def picky(s: Saga, order: Order) -> bool:
        if order.id == "bad":
            raise SagaFailed("no_good")
        await s.call(charge, order, compensate=refund)
        raise SagaFailed("too_late")

    e = estate(picky, options=Options(undos_per_minute=1))
    for n in range(3):
        e.start(picky, replace(Order(), id="bad"), f"bad-{n}")
    e.start(picky, Order(), "o-1")
    e.run()

    assert e.saga("bad-0").status == "failed"
    assert e.saga("o-1").status == "compensated"


class Breaks(MemoryStore):
    """The connection breaks before the first COMMIT that begins an undo."""

    broken = False

    @contextmanager
    def batch(self) -> Iterator[MemoryBatch]:
        with super().batch() as batch:
            yield batch
            written = [event.payload for changes, _, _ in batch._changes for event in changes.events]
            if not self.broken and any(b"stoprequested" in payload for payload in written):
                self.broken = True
                raise StoreUnavailable("the connection broke before COMMIT")


def test_an_undo_that_was_rolled_back_and_begun_again_counts_once(clock: ManualClock) -> None:
    e = Estate(Breaks(clock.now), [order_saga], clock, options=Options(undos_per_minute=1))
    e.answers["stock.reserve"] = lambda c: ("failure", None, {"error": "sold_out"})
    e.start(order_saga, Order(), "o-1")
    e.run()
    assert e.saga("o-1").status == "compensated"
    counts = e.observer.counts
    assert (counts["compensations"], counts["saga.started"], counts["saga.compensated"]) == (1, 1, 1)
    assert counts["transitions"] == e.saga("o-1").revision
    assert "ignored.late" not in counts
