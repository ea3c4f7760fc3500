"""Invariants of workers and of what takes long: order of commands, heartbeats, late answers, undos that are held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segue.outbox.message import unpack
from segue.saga import events as e
from segue.topics.broker import Record
from segue.topics.envelope import MISMATCH
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.shadow import SagaSeen

if TYPE_CHECKING:
    from tests.simulation.database import Books, BookSession


class KEYS(Oracle):
    """The commands of one key are handled in the order in which they stand in their topic."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (topic, partition, key) → its commands in order; command → its first copy.
        self.lines: dict[tuple[str, int, bytes | None], list[Record]] = {}
        self.first: dict[str, Record] = {}

    def append(self, record: Record, message_id: str | None) -> None:
        if record.topic.endswith(".commands") and message_id is not None and not self.all.system.forged(record):
            self.lines.setdefault((record.topic, record.partition, record.key), []).append(record)
            self.first.setdefault(message_id, record)

    def booked(self, books: Books, session: BookSession) -> None:
        if self.all.system.world.faults["topic.truncated"]:
            return  # what was read first is not what stands first
        for key in session.rows:
            row, before = books.inbox.get(key), session.before.get(key) or {}
            for column in ("invoke_id", "compensate_id"):
                if row is not None and row[column] != before.get(column):
                    self._after_its_line(books, row[column])

    def _after_its_line(self, books: Books, command: str) -> None:
        record = self.first.get(command)
        if record is None:
            return
        for earlier in self.lines[(record.topic, record.partition, record.key)]:
            if earlier.offset >= record.offset:
                return
            key = header(earlier.headers, "ce_sagakey") or ""
            if key in self.all.system.forgotten:
                continue
            row = books.inbox.get(key)
            if row is None or not _has_come(row, earlier):
                name = f"{earlier.topic}[{earlier.partition}]"
                self.fail(f"{name}@{record.offset} is handled before @{earlier.offset}, which has the same key")


def _has_come(row: Mapping[str, Any], record: Record) -> bool:
    attempt = int(header(record.headers, "ce_sagaattempt") or "1")
    if header(record.headers, "ce_sagaaction") == "compensate":
        return bool(row["compensate_attempt"] >= attempt)
    return bool(row["attempt"] >= attempt or row["compensate_attempt"] or row["tombstone"])


class BEATS(Oracle):
    """A sign of life gives the step its whole time again; what a handler is told of it, `System.told` judges."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.spans: dict[tuple[str, str], int] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.CommandSent(action="invoke", attempt=1) if not event.by:
                self.spans[(saga.id, event.step)] = event.due - at
            case e.ProgressReported(action="invoke") if event.message:  # of others SIGNS knows from when they count
                span = self.spans.get((saga.id, event.step), event.due - at)
                if event.due - at != span:
                    self.fail(f"{saga.id}: {event.step} shows that it lives, and has {event.due - at} of {span} us")
            case _:
                pass


class LATER(Oracle):
    """What was compensated while its answer was awaited is never answered with success."""

    def booked(self, books: Books, session: BookSession) -> None:
        for key in session.rows:
            row, before = books.inbox.get(key), session.before.get(key)
            if row is None or before is None or row["invoke_outcome"] == before["invoke_outcome"]:
                continue
            if row["invoke_outcome"] == "success" and (before["tombstone"] or before["compensate_attempt"]):
                self.fail(f"{key} is answered with success after it was compensated")


class BREAKER(Oracle):
    """No more undos begin in a minute than are allowed, and those that are held are tried again."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.begun: dict[str, list[int]] = {}
        #: Saga → what would have begun its undo.
        self.held: dict[str, e.StopCause] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.StopHeld():
                self.held[saga.id] = event.cause
            case e.DeadlineMissed():
                if not saga.pivot and not saga.returned:
                    self.fail(f"{saga.id} lets its deadline pass, and is neither past its pivot nor at its end")
                # A deadline is only put off: the code goes on, and where it passes its pivot there is no undo to try.
                if self.held.get(saga.id) == "deadline":
                    del self.held[saga.id]
            case e.StopRequested():
                self.held.pop(saga.id, None)
                # One that did nothing yet has nothing to undo.
                if event.cause != "cancel" and not event.actor and saga.steps:
                    self._begins(saga, at)
            case _:
                pass

    def _begins(self, saga: SagaSeen, at: int) -> None:
        system = self.all.system
        limit = system.plan.undos_per_minute
        counts = [c for c in system.coordinators if c.incarnation > 1]
        if limit is None or counts or system.plan.instances > 1 or system.world.faults["clock.database_back"]:
            return  # each process counts for itself
        assert saga.started is not None
        begun = self.begun.setdefault(saga.started.definition, [])
        begun[:] = [*(earlier for earlier in begun if earlier > at - 60_000_000), at]
        # What a COMMIT has begun whose outcome nobody knows, nobody counts.
        if len(begun) > limit + system.world.faults["commit.ambiguous"] + system.world.points["commit_unanswered"]:
            self.fail(f"{len(begun)} undos of {saga.started.definition} within a minute, allowed are {limit}")

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in changes.updated:
                waits = self.all.shadow.of(row.id).waits  # then a held deadline stands still
                if row.id in self.held and row.attention == "parked" and row.wake_at is None and not waits:
                    self.fail(f"the undo of {row.id} is held, and nothing will try it again")


class LEASES(Oracle):
    """Of a command that runs outside of a transaction only the newest delivery answers; older ones are refused."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: Fence key → the process that began last, and under which lease.
        self.owners: dict[str, tuple[str, int, int]] = {}

    def booked(self, books: Books, session: BookSession) -> None:
        who = session.who
        if who is None:
            return
        for key, row in session.rows.items():
            before = session.before.get(key)
            if row is None:
                continue
            if row["lease"] > (before["lease"] if before else 0):
                if key in self.owners and self.owners[key][:2] != who:
                    self.all.system.world.points["taken_over"] += 1
                self.owners[key] = (*who, row["lease"])
            elif before is not None and self._answers(before, row) and self.owners.get(key, who)[:2] != who:
                self.fail(f"{key} is answered by {who}, and {self.owners[key]} has taken it over")

    @staticmethod
    def _answers(before: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        return any(
            before[f"{action}_id"] == row[f"{action}_id"] is not None
            and before[f"{action}_reply"] is None
            and row[f"{action}_reply"] is not None
            # Who lacks the activity says so, whoever is at work on it.
            and MISMATCH not in unpack(row[f"{action}_reply"]).headers
            for action in ("invoke", "compensate")
        )
