"""Saga definitions: `@saga` on an `async def`, and the registry that a coordinator is given."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from segue.errors import ContractError
from segue.limits import check_name
from segue.saga.fingerprint import fingerprint_of
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, Retry, check_duration, check_policy, micros

if TYPE_CHECKING:
    from segue.saga.context import Saga

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741


class Converter(Protocol):
    """Typed object ↔ canonical JSON bytes; injected: the engine knows no serialisation library of users' models."""

    def to_bytes(self, value: Any, type: Any = None) -> bytes:
        """Raises InvalidPayload naming the path and the Python type that has no JSON form."""
        ...

    def from_bytes(self, data: bytes, type: Any) -> Any:
        """Raises InvalidPayload naming the path, the expected type and what was found."""
        ...

    def same(self, one: bytes, other: bytes, type: Any) -> bool:
        """Whether both are one value of `type`, however they were written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaDefinition(Generic[I, O]):
    """A saga type: a deterministic function, its name and version, and the bounds on its whole run."""

    name: str
    version: int
    function: Callable[[Saga, I], Awaitable[O]]
    input_type: Any
    output_type: Any
    deadline: timedelta | None
    #: The deadline stands still while a person is waited for.
    deadline_waits: bool
    compensation: Retry
    compensation_timeout: timedelta
    fingerprint: str = field(compare=False)

    def __repr__(self) -> str:
        return f"<saga {self.name} v{self.version}>"


def saga(
    name: str,
    *,
    version: int = 1,
    deadline: timedelta | None = None,
    deadline_waits: bool = True,
    compensation: Retry = DEFAULT_COMPENSATION_RETRY,
    compensation_timeout: timedelta = timedelta(minutes=30),
) -> Callable[[Callable[[Saga, I], Awaitable[O]]], SagaDefinition[I, O]]:
    """Make a saga definition of an `async def (s: Saga, input: I) -> O`.

    `deadline` bounds the whole saga: once it is over the undo starts. It stands still while a person is waited for (the
    saga is parked, in doubt, deferred or blocked), and counts as overdue meanwhile; with `deadline_waits=False` only
    while it is blocked. `compensation` and `compensation_timeout` bound
    every compensation; one that is spent is deferred and waits for a person. An exception that leaves the function
    undoes what was done, in reverse. Raises ContractError for a function that can't be a saga.
    """
    check_name("saga", name)
    if version < 1:
        raise ContractError(f"saga {name!r}: version={version}, versions count from 1")
    if deadline is not None:
        check_duration(f"saga {name!r}: deadline", deadline)
    check_duration(f"saga {name!r}: compensation_timeout", compensation_timeout)
    check_policy(f"saga {name!r}: compensation", compensation)

    def define(function: Callable[[Saga, I], Awaitable[O]]) -> SagaDefinition[I, O]:
        input_type, output_type = _types(name, function)
        return SagaDefinition(
            name=name,
            version=version,
            function=function,
            input_type=input_type,
            output_type=output_type,
            deadline=deadline,
            deadline_waits=deadline_waits,
            compensation=compensation,
            compensation_timeout=compensation_timeout,
            fingerprint=fingerprint_of(function),
        )

    return define


class Registry:
    """The definitions that one process can run, by name and version."""

    def __init__(self, definitions: Iterable[SagaDefinition[Any, Any]] = ()) -> None:
        self._by_version: dict[tuple[str, int], SagaDefinition[Any, Any]] = {}
        for definition in definitions:
            self.add(definition)

    def add(self, definition: SagaDefinition[Any, Any]) -> None:
        """Raises ContractError if another definition has the same name and version."""
        key = (definition.name, definition.version)
        known = self._by_version.get(key)
        if known is not None and known is not definition:
            raise ContractError(f"two sagas are called {definition.name!r} version {definition.version}")
        self._by_version[key] = definition

    def get(self, name: str, version: int) -> SagaDefinition[Any, Any] | None:
        """The definition, if this process has it."""
        return self._by_version.get((name, version))

    def newest(self, name: str) -> SagaDefinition[Any, Any] | None:
        """The highest version of `name`; new sagas start with it."""
        versions = [version for known, version in self._by_version if known == name]
        return self._by_version[(name, max(versions))] if versions else None

    def successor(self, name: str, version: int) -> SagaDefinition[Any, Any] | None:
        """What the next run of a saga of `version` runs: the newest, if it is here and not an older one."""
        newest = self.newest(name)
        return newest if newest is not None and newest.version >= version else None

    @property
    def versions(self) -> frozenset[tuple[str, int]]:
        """All (name, version) that this process can run."""
        return frozenset(self._by_version)

    def __iter__(self) -> typing.Iterator[SagaDefinition[Any, Any]]:
        return iter(self._by_version.values())

    def __len__(self) -> int:
        return len(self._by_version)


def deadline_micros(definition: SagaDefinition[Any, Any], now: int) -> int | None:
    """When a saga of this definition that starts at `now` is to be over."""
    return None if definition.deadline is None else now + micros(definition.deadline)


def _types(name: str, function: Callable[..., Any]) -> tuple[Any, Any]:
    if not inspect.iscoroutinefunction(function):
        raise ContractError(f"saga {name!r}: {function!r} is not an `async def`")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        raise ContractError(f"saga {name!r}: it takes (s: Saga, input), not {len(parameters)} parameters")
    try:
        hints = typing.get_type_hints(function)
    except NameError:
        hints = _hints_of_caller(name, function)
    missing = [p.name for p in parameters[1:] if p.name not in hints] + ([] if "return" in hints else ["return"])
    if missing:
        raise ContractError(f"saga {name!r}: annotate {' and '.join(missing)}; payloads are checked against it")
    return hints[parameters[1].name], hints["return"]


def _hints_of_caller(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Types defined inside a function (tests do it) are found in the frames of those who are defining the saga."""
    frame = inspect.currentframe()
    while frame is not None:
        try:
            return typing.get_type_hints(function, localns=frame.f_locals)
        except NameError:
            frame = frame.f_back
    raise ContractError(f"saga {name!r}: its annotations name types that can't be found")
