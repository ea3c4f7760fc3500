"""Mutants of the keys of commands."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from segue.saga.state import SagaState
from segue.saga.turn import Turn
from tests.simulation.patching import Patch, mutant


@mutant("the fence key lacks the coordinator")
def key_without_coordinator(patch: Patch) -> None:
    patch(SagaState, "key_of", lambda self, step: f"{self.id}/{step.name}")


@mutant("an undo travels under another key than what it undoes")
def undo_in_another_line(patch: Patch) -> None:
    old = Turn.command

    def command(self: Any, step: Any, action: Any) -> Any:
        effect = old(self, step, action)
        return effect if action == "invoke" else replace(effect, record_key=self.state.id)

    patch(Turn, "command", command)
