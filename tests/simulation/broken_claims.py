"""Mutants of what is said about a transaction before it is known to be committed."""

from __future__ import annotations

from typing import Any

from segue.coordinator.claims import Claims
from tests.simulation.patching import Patch, mutant


@mutant("counters count what is rolled back and done again")
def counted_early(patch: Patch) -> None:
    def count(self: Any, name: str, n: int = 1) -> None:
        self._observer.count(name, n)

    patch(Claims, "count", count)


@mutant("the breaker counts undos that are rolled back and begun again", focus="bugs")
def undo_counted_early(patch: Patch) -> None:
    def undo_begun(self: Any, definition: str, now: int) -> None:
        self._breaker.begun(definition, now)

    patch(Claims, "undo_begun", undo_begun)


@mutant("what a transaction claims is never told", focus="lingering")
def never_told(patch: Patch) -> None:
    patch(Claims, "confirm", lambda self: None)
