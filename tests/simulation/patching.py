"""How rules of the product are broken, in tests only: functions are replaced, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Patch:
    """Replaces attributes, and puts them back."""

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []

    def __call__(self, owner: Any, name: str, new: Any) -> Any:
        old = getattr(owner, name)
        self._saved.append((owner, name, owner.__dict__.get(name, old) if isinstance(owner, type) else old))
        setattr(owner, name, new)
        return old

    @property
    def broken(self) -> int:
        """How many attributes are replaced."""
        return len(self._saved)

    def undo(self) -> None:
        while self._saved:
            owner, name, old = self._saved.pop()
            setattr(owner, name, old)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule, and how to break it."""

    breaks: str
    apply: Callable[[Patch], None]
    #: On which databases it shows.
    tier: str = "memory"
    #: The focus of every second schedule: for what the plain swarm rarely comes to.
    focus: str | None = None


MUTANTS: dict[str, Mutant] = {}


def mutant(
    breaks: str, tier: str = "memory", focus: str | None = None
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a mutant under the function's name."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[apply.__name__] = Mutant(breaks, apply, tier, focus)
        return apply

    return register
