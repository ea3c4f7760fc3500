"""Mutants of the undo of a part of a saga."""

from __future__ import annotations

from typing import Any

import segue.saga.fold as fold
import segue.saga.transition as transition
from segue.saga import events as e
from segue.saga.steps import Delivery
from segue.saga.undo import UndoPlan
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("a part of a saga is undone all at once, in no order", focus="scopes")
def part_unordered(patch: Patch) -> None:
    old = Turn.undo_plans

    def undo_plans(self: Any) -> list[UndoPlan]:
        if self.state.undoing:
            plans: list[UndoPlan] = old(self)
            return plans
        return [UndoPlan(self.state.abandoned.values(), in_order=False)]

    patch(Turn, "undo_plans", undo_plans)


@mutant("the code goes on while a part of it is still being undone", focus="scopes")
def part_not_awaited(patch: Patch) -> None:
    old = fold.FOLD[e.UndoRequested]

    def undo_requested(state: Any, event: Any, at: int) -> None:
        old(state, event, at)
        if state.undo_requests.pop(event.n, None) is not None:
            state.deliveries.append(Delivery("undo", n=event.n))

    patch(fold, "FOLD", {**fold.FOLD, e.UndoRequested: undo_requested})


@mutant("what the code gives back with the undo that it wants is forgotten", focus="scopes")
def given_back_forgotten(patch: Patch) -> None:
    old = fold.FOLD[e.StopRequested]

    def stopped(state: Any, event: Any, at: int) -> None:
        old(state, event, at)
        state.result = None

    patch(fold, "FOLD", {**fold.FOLD, e.StopRequested: stopped})


@mutant("an undo that the code wants is taken for a failure", focus="scopes")
def given_back_fails(patch: Patch) -> None:
    old = fold.FOLD[e.StopRequested]

    def stopped(state: Any, event: Any, at: int) -> None:
        old(state, event, at)
        state.error = state.error or event.error

    patch(fold, "FOLD", {**fold.FOLD, e.StopRequested: stopped})
