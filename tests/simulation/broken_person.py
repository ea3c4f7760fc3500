"""Mutants of a saga's deadline and cause while a person is waited for."""

from __future__ import annotations

from typing import Any

import segue.saga.fold as fold
import segue.saga.transition as transition
from segue.saga import events as e
from segue.saga.state import SagaState
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("a saga's deadline goes on while a person is waited for")
def deadline_runs(patch: Patch) -> None:
    patch(SagaState, "waits_for_person", property(lambda self: False))


@mutant("a saga's deadline does not get back the time in which a person was waited for", focus="told")
def deadline_not_moved(patch: Patch) -> None:
    patch(Turn, "waited", lambda self, since: None)


@mutant("a person's cancel takes the place of what the person was waited for")
def cause_replaced(patch: Patch) -> None:
    old = fold.FOLD[e.StopRequested]

    def stopped(state: Any, event: Any, at: int) -> None:
        old(state, event, at)
        state.error = event.error

    patch(fold, "FOLD", {**fold.FOLD, e.StopRequested: stopped})
