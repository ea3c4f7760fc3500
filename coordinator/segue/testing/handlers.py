"""Functions for activities, checked by type checkers one by one, which a dict of them can't be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from segue.contract import Activity
from segue.testing.contracts import AnyActivity

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741


class Handlers(Mapping[AnyActivity, Callable[[Any], Any]]):
    """`Handlers().on(charge, charge_order).on(ship, ship_order)`: a mapping for `explore`, with its types checked."""

    def __init__(self) -> None:
        self._functions: dict[AnyActivity, Callable[[Any], Any]] = {}

    def on(self, activity: Activity[I, O], function: Callable[[I], O] | Callable[[I], Awaitable[O]]) -> Handlers:
        """`function` answers `activity`; the same handlers, for more of them."""
        self._functions[activity] = function
        return self

    def __getitem__(self, activity: AnyActivity) -> Callable[[Any], Any]:
        return self._functions[activity]

    def __iter__(self) -> Iterator[AnyActivity]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
