"""Mutants of the keys of commands."""

from __future__ import annotations

from typing import Any

from segue.saga.state import SagaState
from tests.simulation.patching import Patch, mutant


@mutant("the fence key lacks the coordinator")
def key_without_coordinator(patch: Patch) -> None:
    patch(SagaState, "key_of", lambda self, step: f"{self.id}/{step.name}")


@mutant("an undo travels under another key than what it undoes")
def undo_in_another_line(patch: Patch) -> None:
    old = SagaState.record_key_of

    def record_key(self: Any, step: Any) -> Any:
        return self.id if step.undo.attempt else old(self, step)

    patch(SagaState, "record_key_of", record_key)
