"""`lint` names the lines of a saga that go over a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from segue.contract import Activity
from segue.saga import Saga, saga
from segue.saga.lint import lint

take = Activity("shop.take", str, str)


@dataclass
class Basket:
    items: set[str]
    name: str = ""


@saga("field")
async def field(s: Saga, basket: Basket) -> None:
    for item in basket.items:
        await s.call(take, item)


@saga("local")
async def local(s: Saga, names: list[str]) -> None:
    wanted = set(names) - {"x"}
    for name in wanted:
        await s.call(take, name)


@saga("mapped")
async def mapped(s: Saga, names: frozenset[str]) -> None:
    await s.map(take, list(names))


@saga("spread")
async def spread(s: Saga, names: list[str]) -> list[str]:
    return [await s.call(take, name) for name in {*names}]


@saga("in-order")
async def in_order(s: Saga, basket: Basket) -> None:
    for item in sorted(basket.items):
        await s.call(take, item)
    if "x" in basket.items and len(basket.items) > 2:
        await s.map(take, sorted(set(basket.name)))


@pytest.mark.parametrize(
    ("definition", "offset", "shown"),
    [(field, 2, "basket.items"), (local, 3, "wanted"), (mapped, 2, "names"), (spread, 2, "{*names}")],
)
def test_a_line_that_goes_over_a_set_is_named(definition: Any, offset: int, shown: str) -> None:
    [warned] = lint(definition)
    assert warned.file.endswith("test_lint.py")
    assert warned.line == definition.function.__code__.co_firstlineno + offset
    assert f"the set {shown}, whose order" in warned.what


def test_what_is_sorted_or_only_asked_is_not() -> None:
    assert lint(in_order) == []
