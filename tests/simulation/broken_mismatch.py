"""Mutants of rolling deploys: processes of an older build meet what they do not have."""

from __future__ import annotations

from typing import Any

import segue.saga.replies as replies
from segue.activities import outcome, participant
from segue.coordinator.work import Work
from segue.errors import NotFound
from segue.outbox import inbox
from segue.saga import fold, fold_steps
from segue.saga.alarms import Alarms
from segue.saga.events import RetryPlanned
from segue.saga.reasons import silence
from segue.saga.turn import Turn
from tests.simulation.patching import Patch, mutant


@mutant("a worker that lacks an activity refuses the command", focus="rolling")
def lacking_refuses(patch: Patch) -> None:
    patch(participant, "unfit", outcome.failure)


@mutant("a command that no worker had is taken for one that a handler wants to have again", focus="rolling")
def mismatch_is_retry(patch: Patch) -> None:
    patch(replies, "is_mismatch", lambda reply: False)


@mutant("a command that no worker had counts as an attempt", focus="rolling")
def mismatch_counts(patch: Patch) -> None:
    def counted(state: Any, event: Any, at: int) -> None:
        fold_steps.postponed(state, event, at)
        state.steps[event.step].mismatches = 0

    patch(fold, "FOLD", {**fold.FOLD, RetryPlanned: counted})


@mutant("a step that found no worker is spent once its time is over", focus="rolling")
def mismatch_spent(patch: Patch) -> None:
    patch(Turn, "unfit", Turn.spent)


@mutant("after mismatches alone a last attempt without time counts as silence, and is undone", focus="rolling")
def mismatch_then_silence(patch: Patch) -> None:
    old = Alarms.time_is_over

    def time_is_over(self: Any, step: Any) -> None:
        if step.status == "issued":
            self.unknown(step, silence(step.timeout))
        else:
            old(self, step)

    patch(Alarms, "time_is_over", time_is_over)


@mutant("a worker that lacks what another one has begun says that nothing has happened", focus="handed_over")
def begun_elsewhere(patch: Patch) -> None:
    proves = inbox.proves_no_effect
    patch(participant, "proves_no_effect", lambda fence, command, begun: proves(fence, command, begun=True))


@mutant("a start of a type that this coordinator lacks is dead", focus="rolling")
def unknown_type_dead(patch: Patch) -> None:
    def dead(self: Any, item: Any, name: str) -> None:
        self._dead(item, "unknown_saga_type", NotFound(f"no saga is called {name!r} here"))

    patch(Work, "_keep_start", dead)
