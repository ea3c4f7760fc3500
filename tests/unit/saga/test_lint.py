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


def wanted(names: list[str]) -> set[str]:
    return {name for name in names if name}


async def take_all(s: Saga, names: set[str]) -> None:
    for name in names:
        await s.call(take, name)


class Helper:
    @staticmethod
    async def take_each(s: Saga, names: list[str]) -> None:
        await s.map(take, list({*names}))


@saga("calls")
async def calls(s: Saga, names: list[str]) -> None:
    await take_all(s, wanted(names))


@saga("method")
async def method(s: Saga, names: list[str]) -> None:
    await Helper.take_each(s, names)


@saga("returned")
async def returned(s: Saga, names: list[str]) -> None:
    for name in wanted(names):
        await s.call(take, name)


@saga("nested")
async def nested(s: Saga, names: list[str]) -> None:
    async def inner(few: set[str]) -> None:
        for name in few:
            await s.call(take, name)

    await inner(set(names))


def test_functions_that_a_saga_calls_are_read_too() -> None:
    def places(definition: Any) -> list[tuple[int, str]]:
        return [(warned.line, warned.what.partition(",")[0]) for warned in lint(definition)]

    def line_of(function: Any, offset: int) -> int:
        return int(function.__code__.co_firstlineno) + offset

    assert places(calls) == [(line_of(take_all, 1), "it goes over the set names")]
    assert places(method) == [(line_of(Helper.take_each, 2), "it goes over the set {*names}")]
    assert places(returned) == [(line_of(returned.function, 2), "it goes over the set wanted(names)")]
    assert places(nested) == [(line_of(nested.function, 3), "it goes over the set few")]


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
