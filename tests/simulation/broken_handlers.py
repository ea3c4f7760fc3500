"""Mutants of what becomes of a handler's work when the handler does not come to its end."""

from __future__ import annotations

from typing import Any

import segue.activities.loop as loop
import segue.activities.unit as unit
from segue.activities.outcome import Rejected, failure
from tests.simulation.patching import Patch, mutant


@mutant("a rejection in a group is answered in its transaction, with whatever its handler has written", focus="crowds")
def group_keeps_rejected(patch: Patch) -> None:
    old = unit.UnitOfWork._member

    def member(self: Any, desk: Any, sessions: Any, shared: Any, rows: Any, prepared: Any) -> Any:
        try:
            return old(self, desk, sessions, shared, rows, prepared)
        except unit._GroupBroken as broken:
            if not isinstance(broken.cause, Rejected):
                raise
            fence, now, _ = self._participant.decided(rows, prepared)
            answered = failure(broken.cause.code, broken.cause.message)
            return self._participant.answer(rows, prepared.command, fence, answered, now)

    patch(unit.UnitOfWork, "_member", member)


@mutant("a command whose handler panics, in a library of another language, holds its slot for ever", focus="crowds")
def panics_keep_slot(patch: Patch) -> None:
    answered, ended = unit.UnitOfWork._answer_exception, loop.CommandLoop._ended_with

    def answer(self: Any, desk: Any, prepared: Any, error: BaseException) -> Any:
        if not isinstance(error, Exception):
            raise error
        return answered(self, desk, prepared, error)

    def end(self: Any, task: Any, prepared: Any, result: Any) -> None:
        if not isinstance(result, BaseException) or isinstance(result, Exception):
            ended(self, task, prepared, result)

    patch(unit.UnitOfWork, "_answer_exception", answer)
    patch(loop.CommandLoop, "_ended_with", end)
