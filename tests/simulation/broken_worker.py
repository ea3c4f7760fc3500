"""Mutants of the worker: of groups of commands, of heartbeats, of late answers, and of undos that are held."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

import segue.activities.later as later
import segue.activities.loop as loop
import segue.activities.participant as participant
import segue.activities.partitions as partitions
import segue.activities.publish as publish
import segue.activities.unit as unit
import segue.coordinator.breaker as breaker
import segue.coordinator.publisher as publisher
import segue.outbox.group as group
import segue.saga.fold as fold
import segue.saga.transition as transition
from segue.outbox.inbox import lock_fence
from segue.saga import events as e
from tests.simulation.patching import Patch, mutant

# --- offsets


@mutant("what a worker has done between two commits of its offsets is never told")
def offsets_between(patch: Patch) -> None:
    old = loop.CommandLoop._commit

    def commit(self: Any, *, at_once: bool) -> None:
        old(self, at_once=at_once)
        self._committed.update({at: work.watermark for at, work in self._work.items() if work.watermark is not None})

    patch(loop.CommandLoop, "_commit", commit)


# --- groups


@mutant("in a group, a fence row is what it was when the group began")
def group_stale_row(patch: Patch) -> None:
    old = group.StagedRows.lock_inbox_row

    def lock(self: Any, consumer: str, saga_key: str) -> Any:
        row, new, now = old(self, consumer, saga_key)
        kept = self.__dict__.setdefault("_first", {}).setdefault(saga_key, row)
        return kept, new, now

    patch(group.StagedRows, "lock_inbox_row", lock)


@mutant("a group is committed although one of its handlers has raised", focus="crowds")
def group_commits(patch: Patch) -> None:
    old = unit.UnitOfWork._member

    def member(self: Any, *args: Any) -> Any:
        try:
            return old(self, *args)
        except unit._GroupBroken:
            return None

    patch(unit.UnitOfWork, "_member", member)


@mutant(
    "what follows a group's last command of its key goes into the next group, which may overtake it", focus="crowds"
)
def group_followers(patch: Patch) -> None:
    patch(partitions.Task, "follows", lambda self, other: False)


@mutant("a group's replies are published before it is committed")
def group_publishes_early(patch: Patch) -> None:
    init, old = loop.CommandLoop.__init__, unit.UnitOfWork._member

    def begin(self: Any, **parts: Any) -> None:
        init(self, **parts)
        parts["unit"]._early = self._publisher

    def member(self: Any, *args: Any) -> Any:
        handled = old(self, *args)
        if handled.reply is not None:
            self._early.publish(args[-1].command, handled.reply, lambda: None)
            self._early.serve()
        return handled

    patch(loop.CommandLoop, "__init__", begin)
    patch(unit.UnitOfWork, "_member", member)


@mutant("a group's replies are published although it was rolled back", focus="crowds")
def group_rolled_back(patch: Patch) -> None:
    old = unit.UnitOfWork._together

    def together(self: Any, desk: Any, batch: Any) -> Any:
        handled: list[Any] = []

        def member(*args: Any) -> Any:
            handled.append(answer(*args))
            return handled[-1]

        answer, self._member = self._member, member
        try:
            return old(self, desk, batch)
        except Exception:
            if len(handled) < len(batch):
                raise
            return handled
        finally:
            del self._member

    patch(unit.UnitOfWork, "_together", together)


# --- what is sent


@mutant("a worker that has nothing to do lets its replies wait for company", focus="lingering")
def idle_replies(patch: Patch) -> None:
    old = publish.ReplyPublisher.serve
    patch(publish.ReplyPublisher, "serve", lambda self, patience=0.0: old(self))


@mutant("a coordinator that has nothing to do lets its commands wait for company", focus="lingering")
def idle_commands(patch: Patch) -> None:
    old = publisher.Publisher.poll
    patch(publisher.Publisher, "poll", lambda self, timeout=0.0: old(self))


@mutant("a reply that the broker could not take is not sent again", focus="outboxes")
def reply_given_up(patch: Patch) -> None:
    patch(publish.ReplyPublisher, "_later", lambda self, flight: None)


# --- what takes long


@mutant("a sign of life does not give a step more time")
def progress_time(patch: Patch) -> None:
    old = transition._Turn.record

    def record(self: Any, event: Any) -> None:
        if isinstance(event, e.ProgressReported) and event.action == "invoke":
            event = replace(event, due=self.state.steps[event.step].due)
        old(self, event)

    patch(transition._Turn, "record", record)


@mutant("what was kept of a heartbeat is not told to the next delivery")
def details_lost(patch: Patch) -> None:
    patch(participant, "_details", lambda prepared, fence: None)


@mutant("a second answer to a command that was put off is sent, too")
def later_twice(patch: Patch) -> None:
    def lock(*args: Any) -> Any:
        fence, now = lock_fence(*args)
        return replace(fence, invoke=replace(fence.invoke, outcome=fence.invoke.outcome and "pending")), now

    patch(later, "lock_fence", lock)


@mutant("[8] what was compensated meanwhile is answered all the same")
def later_after_undo(patch: Patch) -> None:
    patch(later, "_refuse_undone", lambda fence, action, key: None)


@mutant("the breaker holds nothing")
def breaker_open(patch: Patch) -> None:
    patch(breaker.Breaker, "held_until", lambda self, definition, now, beginning=(): None)


@mutant("an undo that is held is not tried again")
def held_for_ever(patch: Patch) -> None:
    def held(s: Any, event: Any, at: int) -> None:
        s.held = event

    patch(fold, "FOLD", {**fold.FOLD, e.StopHeld: held})
