"""What sagas and services agree on: activities, signals, attributes.

A contract is a value, not a decorated function, so that neither side imports the other. It names no topic and no
dialect: where an activity lives is a matter of routes, which belong to a deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast, overload

from segue.errors import ContractError
from segue.limits import check_name

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


def seconds(n: float) -> timedelta:
    """`n` seconds."""
    return timedelta(seconds=n)


def minutes(n: float) -> timedelta:
    """`n` minutes."""
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    """`n` hours."""
    return timedelta(hours=n)


def days(n: float) -> timedelta:
    """`n` days of 24 hours."""
    return timedelta(days=n)


@dataclass(frozen=True, slots=True)
class Undo(Generic[I, O]):
    """What a compensation receives: the input of the step it undoes and, if it is known, its output.

    `output` is None where the step answered with nothing, and where its outcome is unknown.
    """

    input: I
    output: O | None = None


class Activity(Generic[I, O]):
    """Something a service does on command: `Activity("payments.charge", Order, Charged)`.

    The part of the name before the first dot is the service; its command topic is made from it by a template.
    `readonly=True` says that it has no effect to undo, so an unknown outcome counts as a failure.
    """

    __slots__ = ("input", "name", "output", "readonly", "undoes")

    name: str
    input: type[I]
    output: type[O] | None
    readonly: bool
    undoes: str | None

    @overload
    def __init__(
        self: Activity[I, None], name: str, input: type[I], output: None = None, *, readonly: bool = False
    ) -> None: ...
    @overload
    def __init__(self, name: str, input: type[I], output: type[O], *, readonly: bool = False) -> None: ...
    def __init__(self, name: str, input: type[I], output: type[Any] | None = None, *, readonly: bool = False) -> None:
        check_name("activity", name)
        if "." not in name:
            raise ContractError(f"activity {name!r} names no service; write it as 'service.activity'")
        self.name = name
        self.input = input
        self.output = output
        self.readonly = readonly
        self.undoes = None

    @property
    def service(self) -> str:
        """The participant: `payments` of `payments.charge`."""
        return self.name.partition(".")[0]

    def undo(self, name: str) -> Activity[Undo[I, O], None]:
        """The activity that takes back what this one did; it receives `Undo(input, output)`.

        It must belong to the same service: both share one fence row in that service's database.
        """
        if self.undoes is not None:
            raise ContractError(f"{self.name} is itself a compensation; it can't be undone")
        generic: Any = Undo
        input_type = cast("type[Undo[I, O]]", generic[self.input, self.output or type(None)])
        undo: Activity[Undo[I, O], None] = Activity(name, input_type)
        if undo.service != self.service:
            raise ContractError(f"{name} must be an activity of {self.service!r}, as {self.name} which it undoes is")
        undo.undoes = self.name
        return undo

    def __repr__(self) -> str:
        return f"Activity({self.name!r})"


@dataclass(frozen=True, slots=True)
class Signal(Generic[T]):
    """A message to a running saga, received with `await s.receive(signal)`."""

    name: str
    type: type[T]

    def __post_init__(self) -> None:
        check_name("signal", self.name)


@dataclass(frozen=True, slots=True)
class Attribute(Generic[T]):
    """A value that a saga sets on its own row with `s.set(attribute, value)` and clients query."""

    name: str
    type: type[T]

    def __post_init__(self) -> None:
        check_name("attribute", self.name)
