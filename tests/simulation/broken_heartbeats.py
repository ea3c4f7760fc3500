"""Mutants of signs of life that are kept beside the histories."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

import segue.saga.replies as replies
import segue.saga.transition as transition
from segue.activities import unit
from segue.coordinator.work import Work
from segue.outbox.inbox import lock_fence
from segue.saga.effects import ForgetSign
from segue.saga.signs import heard
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("every sign of life is an event: a long activity fills the history of its saga", focus="beating")
def sign_is_event(patch: Patch) -> None:
    alive = Turn.alive

    def written(self: Any, step: Any, action: Any, timeout: Any, reply: Any) -> Any:
        self.state.signs.pop(reply.command_id, None)
        return alive(self, step, action, timeout, reply)

    patch(replies.Replies, "alive", written)


@mutant("signs of life are not read when a deadline has come", focus="beating")
def sign_unread(patch: Patch) -> None:
    patch(Turn, "is_alive", lambda self, step, what, signs: False)


@mutant("signs of life are not read when silence is answered", focus="beating")
def sign_unheeded(patch: Patch) -> None:
    patch(Turn, "heed", lambda self, command, last: None)


@mutant("a copy of a sign of life is kept as a new one", focus="beating")
def copy_kept(patch: Patch) -> None:
    def every(first: Any, last: Any, **more: Any) -> Any:
        more["message"] = ""
        return heard(first, last, **more)

    patch(replies, "heard", every)


@mutant("signs of life of settled commands stay", focus="beating")
def signs_stay(patch: Patch) -> None:
    keep = Work._keep_or_forget

    def kept(self: Any, saga_id: str, effect: Any) -> None:
        if not isinstance(effect, ForgetSign):
            keep(self, saga_id, effect)

    patch(Work, "_keep_or_forget", kept)


@mutant("a deadline that signs of life extend is counted from now, and not from the last of them", focus="beating")
def extended_from_now(patch: Patch) -> None:
    extended = Turn.extended

    def from_now(self: Any, step: Any, action: Any, last: Any) -> bool:
        return bool(extended(self, step, action, last and replace(last, at=self.now + 1)))

    patch(Turn, "extended", from_now)


class _AnyLease(int):
    """Is every lease."""

    __hash__ = int.__hash__

    def __ne__(self, other: object) -> bool:
        return False


@mutant("a delivery that was taken over answers all the same", focus="beating")
def old_lease(patch: Patch) -> None:
    def lock(*args: Any) -> Any:
        fence, now = lock_fence(*args)
        return replace(fence, lease=_AnyLease(fence.lease)), now

    patch(unit, "lock_fence", lock)
