"""Mutants of what the saga's code is told: another outcome than the one that lasts."""

from __future__ import annotations

from typing import Any

import segue.saga.transition as transition
from segue.saga import events as e
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("what blocked code has not taken yet is replaced by a success, though the undo is under way", focus="told")
def told_though_undone(patch: Patch) -> None:
    def succeeded(self: Any, step: Any, output: Any, by: str = "") -> None:
        self.record(e.StepSucceeded(step=step.name, output=output, late=step.delivered, by=by))

    patch(Turn, "succeeded", succeeded)


@mutant(
    "a success that replaces what blocked code has not taken yet is undone, though the code is told of it", focus="told"
)
def undone_though_told(patch: Patch) -> None:
    def succeeded(self: Any, step: Any, output: Any, by: str = "") -> None:
        late = step.delivered and step.status in ("failed", "unknown") and not step.optional
        then: Any = "" if self.state.untold(step) or not step.delivered else "undone" if late else "recorded"
        self.record(e.StepSucceeded(step=step.name, output=output, late=step.delivered, by=by, then=then))

    patch(Turn, "succeeded", succeeded)
