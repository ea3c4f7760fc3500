"""Kafka may duplicate, delay and reorder: the end is that of the clean run."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tests.unit.coordinator.kit import Estate
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]
SAGAS = 12


def mess_up(e: Estate, seed: int, *, copies: int, window: int) -> None:
    """Every message `copies` times, in any order within `window` messages."""
    random = Random(seed)
    send, held = e.send, list[tuple[Any, ...]]()

    def disorderly(*message: Any) -> None:
        held.extend([message] * copies)
        random.shuffle(held)
        while len(held) > window:
            send(*held.pop())

    def release() -> bool:
        random.shuffle(held)
        for message in held:
            send(*message)
        held.clear()
        return answer()

    answer = e.answer
    setattr(e, "send", disorderly)  # noqa: B010 - in place of a method
    setattr(e, "answer", release)  # noqa: B010 - in place of a method


def refuse_some(e: Estate) -> None:
    """Every third order can't be shipped, every fourth is not in stock."""
    e.answers["shipping.ship"] = lambda c: (
        ("failure", None, {"error": "no_courier"})
        if int(c.saga_id[2:]) % 3 == 0
        else ("success", {"parcel": f"p-{c.saga_id}"})
    )
    e.answers["stock.reserve"] = lambda c: (
        ("failure", None, {"error": "sold_out"}) if int(c.saga_id[2:]) % 4 == 0 else ("success", None)
    )


def outcome(e: Estate) -> dict[str, tuple[Any, ...]]:
    for n in range(SAGAS):
        e.start(order_saga, Order(id=str(n)), f"o-{n}")
    e.run(300)
    rows = [e.saga(f"o-{n}") for n in range(SAGAS)]
    return {row.id: (row.status, row.result, row.error_code, sorted(set(e.sent(row.id)))) for row in rows}


@pytest.fixture
def clean(estate: Make) -> dict[str, tuple[Any, ...]]:
    e = estate(order_saga)
    refuse_some(e)
    result = outcome(e)
    e.store.__init__(e.clock.now)  # type: ignore[misc]
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("copies", "window"), [(3, 1), (1, 8), (3, 20)])
def test_duplicates_and_reordering_within_a_window_give_the_end_of_the_clean_run(
    estate: Make, clean: dict[str, tuple[Any, ...]], seed: int, copies: int, window: int
) -> None:
    e = estate(order_saga)
    refuse_some(e)
    mess_up(e, seed, copies=copies, window=window)
    assert outcome(e) == clean
