"""Which activities a saga really calls: the contracts themselves, with the types of their inputs and outputs.

The engine knows activities by name alone. In tests the saga's code gets a handle that notes each contract on its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

from segue.contract import Activity
from segue.errors import UsageError
from segue.saga.context import Saga
from segue.saga.definition import SagaDefinition
from segue.saga.retry import Retry

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741

AnyActivity = Activity[Any, Any]


def activity_of(value: object) -> AnyActivity:
    """The value itself. Raises UsageError for what is no activity, like its name."""
    if not isinstance(value, Activity):
        raise UsageError(f"{value!r:.120} is no activity: give the contract itself, as the saga's code calls it")
    return value


def saga_of(value: object) -> SagaDefinition[Any, Any]:
    """The value itself. Raises UsageError for what is no saga."""
    if not isinstance(value, SagaDefinition):
        raise UsageError(f"{value!r:.120} is no saga: give the function that has @saga(…) above it")
    return value


class Contracts:
    """Activities by name."""

    def __init__(self, known: Iterable[AnyActivity] = ()) -> None:
        self._by_name: dict[str, AnyActivity] = {activity_of(one).name: one for one in known}

    def add(self, activity: AnyActivity) -> None:
        """The first one of a name stays: it is the one that the test compares with."""
        self._by_name.setdefault(activity.name, activity)

    def __getitem__(self, name: str) -> AnyActivity:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def observed(self, definition: SagaDefinition[I, O]) -> SagaDefinition[I, O]:
        """The same saga; what its code calls is noted here."""

        async def function(s: Saga, value: I) -> O:
            return await definition.function(_ObservedSaga(s, self), value)

        return replace(definition, function=function)


class _ObservedSaga(Saga):
    __slots__ = ("_contracts",)

    def __init__(self, saga: Saga, contracts: Contracts) -> None:
        super().__init__(saga._program)
        self._contracts = contracts

    async def _call(
        self,
        activity: AnyActivity,
        input: Any,
        compensate: AnyActivity | None,
        retry: Retry | None,
        timeout: timedelta,
        optional: bool,
        on_failure: Literal["raise", "park"],
        step: str | None,
        index: str,
        key: str | None = None,
        heartbeat_timeout: timedelta | None = None,
    ) -> Any:
        self._contracts.add(activity)
        if compensate is not None:
            self._contracts.add(compensate)
        return await super()._call(
            activity, input, compensate, retry, timeout, optional, on_failure, step, index, key, heartbeat_timeout
        )
