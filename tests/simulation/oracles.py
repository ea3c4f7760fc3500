"""The invariants, one class each, judged inside every commit, at every append, and at the end.

Numbers are those of docs/reliability.md: S for safety, L for liveness. An oracle watches one mechanism, because retries
mask broken mechanisms from anything that only looks at how sagas end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from greenlet import getcurrent

from segue.clock import to_micros
from segue.coordinator.store import Changes, OffsetMove, StoredOffset
from segue.outbox.message import RAW, Message, unpack
from segue.saga import events as e
from segue.topics.broker import Headers, Outgoing, Partition, Record
from tests.simulation.shadow import SagaSeen, Shadow, StepSeen
from tests.simulation.staging import superseded

if TYPE_CHECKING:
    from tests.simulation.database import Books, BookSession
    from tests.simulation.system import System


class Violation(BaseException):
    """An invariant does not hold. Not an Exception: the product catches those."""

    #: All of this run: a worker survives whatever is raised below a handler.
    raised: ClassVar[list[Violation]] = []

    def __init__(self, oracle: str, message: str) -> None:
        super().__init__(f"{oracle}: {message}")
        self.raised.append(self)
        #: Whose turn it was.
        self.whose = getcurrent()
        self.oracle = oracle
        self.message = message


class Oracle:
    """One invariant. Every hook may raise through `fail`."""

    def __init__(self, all: Oracles) -> None:
        self.all = all

    @property
    def name(self) -> str:
        return type(self).__name__

    def fail(self, message: str) -> None:
        raise Violation(self.name, message)

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        """An event is committed; `saga` is as it was before it, `at` the database's time in microseconds."""

    def transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        """A row of the history is committed; `saga` is as it is after it."""

    def commit(self, commit: Commit) -> None:
        """A batch of the coordinator is committed."""

    def append(self, record: Record, message_id: str | None) -> None:
        """A record was appended to a topic."""

    def given(self, records: Sequence[Record]) -> None:
        """A reader is given these."""

    def booked(self, books: Books, session: BookSession) -> None:
        """A service's transaction is committed."""

    def end(self, system: System) -> None:
        """Everything is at rest after the faults."""


class Commit:
    """One committed batch, with what was known before it."""

    __slots__ = ("at", "began", "by", "changes", "read", "stood", "unpublished")

    def __init__(
        self,
        began: int,
        read: list[tuple[Record, Any]],
        unpublished: set[str],
        stood: Sequence[StoredOffset],
        by: str | None,
    ) -> None:
        #: The process whose transaction it was.
        self.by = by
        #: World time at which the transaction had begun, at the latest.
        self.began = began
        self.read = read
        self.unpublished = unpublished
        #: Where the offsets stood that the batch moves.
        self.stood = stood
        self.changes: Sequence[Changes] = ()
        self.at = 0


def header(headers: Headers, name: str) -> str | None:
    """The text of the last header of that name."""
    value = dict(headers).get(name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


class Oracles:
    """All of them, and what they share."""

    def __init__(self) -> None:
        self.shadow = Shadow()
        self.system: System = None  # type: ignore[assignment]
        self.published: dict[str, Record] = {}
        self.promised: dict[str, Message] = {}
        #: Replies that are in a committed fence row, or were, or were staged for one that a later attempt has.
        self.replies: set[str] = set()
        #: Commands of which Kafka has acknowledged a reply.
        self.answered: set[str | None] = set()
        #: Command → the workers that began it.
        self.begun: defaultdict[str | None, set[tuple[str, int]]] = defaultdict(set)
        self.raw: set[tuple[bytes | None, Headers]] = set()
        #: Records that are applied, by identity; they are kept, so that an identity is never given twice.
        self.applied: set[int] = set()
        #: Those of them that are what the one who applied them was given; where an unclean election cut off a record,
        #: another one may be at its place by now.
        self.met: set[int] = set()
        self.messages: set[tuple[str, str]] = set()
        #: Messages of the batch that is being committed.
        self.writing: set[str] = set()
        self.kept: list[Record] = []
        #: When, by the database's clock and by the world's.
        self.appended_at: dict[int, tuple[int, int]] = {}
        from tests.simulation.invariants import ORACLES

        self.commit: Commit | None = None
        self.every: list[Oracle] = [kind(self) for kind in ORACLES]
        self._event = [o for o in self.every if type(o).event is not Oracle.event]
        self._transition = [o for o in self.every if type(o).transition is not Oracle.transition]
        self._commit = [o for o in self.every if type(o).commit is not Oracle.commit]
        self._append = [o for o in self.every if type(o).append is not Oracle.append]
        self._given = [o for o in self.every if type(o).given is not Oracle.given]
        self._booked = [o for o in self.every if type(o).booked is not Oracle.booked]

    # --- what the databases and the broker tell

    def before_commit(
        self,
        began: int,
        given: Mapping[tuple[Partition, int], Record],
        fences: Sequence[tuple[str, OffsetMove]],
        changes: Sequence[Changes],
        by: str | None,
    ) -> Commit:
        log = self.system.broker.log
        commands = self.shadow.commands
        read: list[tuple[Record, Any]] = []
        offsets = self.system.database.tables.offsets
        stood = [offsets[(coordinator, move.partition)] for coordinator, move in fences]
        for _, move in fences:
            for record in log(move.partition).read(move.start, move.end - move.start):
                known = commands.get(header(record.headers, "ce_causationid") or "")
                before = None
                if known is not None:
                    step = known[1]
                    ended = known[0].ended is not None
                    before = (step.status, step.attempt, step.undo, step.undo_attempt, ended)
                read.append((record, before))
                if given.get((move.partition, record.offset)) is record:
                    self.met.add(id(record))
        counts = self.system.database.tables.unpublished
        unpublished = {event.saga_id for c in changes for event in c.events if counts.get(event.saga_id)}
        return Commit(began, read, unpublished, stood, by)

    def committed(
        self, commit: Commit, fences: Sequence[tuple[str, OffsetMove]], changes: Sequence[Changes], now: Any
    ) -> None:
        commit.changes = changes
        commit.at = to_micros(now)
        system = self.system
        for stood, (_, move) in zip(commit.stood, fences, strict=True):
            if (stood.next, stood.topic_id) != (move.start, move.topic_id) or move.end < move.start:
                raise Violation("S4Serial", f"{move} is applied where the offset stands at {stood}")
        for record, _ in commit.read:
            self.applied.add(id(record))
        self.writing = {message.id for change in changes for message in change.messages}
        self._hear(changes)
        for change in changes:
            self.promise(change.messages)
            for row in change.events:
                saga = self.shadow.of(row.saga_id)
                # A transaction that waited for its locks writes the time of who went before.
                at = to_micros(row.at)
                if row.seq != saga.revision + 1:
                    raise Violation("S4Serial", f"{saga.id} gets transition {row.seq} after {saga.revision}")
                if row.message_id is not None:
                    if (row.saga_id, row.message_id) in self.messages:
                        raise Violation("S8Replies", f"message {row.message_id} moves {row.saga_id} twice")
                    self.messages.add((row.saga_id, row.message_id))
                if at > max(system.world.db_micros(), system.world.db_most):
                    raise Violation("S9Timers", f"{row.saga_id} writes {row.at}, which is still to come")
                saga.revision, saga.moved_at = row.seq, at
                events = e.decode_events(row.payload)
                for brief in events:
                    event = self.shadow.whole(saga, brief, at)
                    if type(event) in _JUDGED:
                        self._judge(saga, event, at, commit)
                    self.shadow.fold(saga, event, at)
                self._judge_transition(saga, events, at)
                system.world.note(at, row.saga_id, row.type)
            for entry in change.audits:
                if entry.action == "replay":
                    system.world.points["redriven_letter"] += 1
        for oracle in self._commit:
            oracle.commit(commit)

    def _hear(self, changes: Sequence[Changes]) -> None:
        """Signs of life that are kept beside the histories."""
        for row in (row for change in changes for row in change.heartbeats):
            _, step, action, _ = self.shadow.commands[row.command_id]
            step.heard[action], step.heard_at[action] = to_micros(row.at), self.system.world.now

    def crossed(self, step: StepSeen, action: str) -> bool:
        """A sign of life was committed while the transaction that is judged was under way: it could not know."""
        return self.commit is not None and step.heard_at.get(action, -1) >= self.commit.began

    def reset(self, partition: Partition, known: StoredOffset, stood: StoredOffset | None) -> None:
        """An offset is set to the beginning of its topic, by somebody who knew it to be `known`."""
        self.system.world.points["offset_reset"] += 1
        if stood is None or (stood.next, stood.topic_id) != (known.next, known.topic_id):
            raise Violation("S4Serial", f"{partition} is reset from {known} where it stands at {stood}")

    def _judge(self, saga: SagaSeen, event: e.AnyEvent, at: int, commit: Commit) -> None:
        point = _POINTS.get(type(event))
        if point is not None:
            self.system.world.points[point] += 1
        elif isinstance(event, e.StepSucceeded) and event.late:
            self.system.world.points["late_success"] += 1
        self.commit = commit
        for oracle in self._event:
            oracle.event(saga, event, at)

    def _judge_transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        for oracle in self._transition:
            oracle.transition(saga, events, at)

    def promise(self, messages: Sequence[Message]) -> None:
        """Rows of an outbox are committed."""
        for message in messages:
            if RAW in message.headers:
                outgoing = message.outgoing()
                self.raw.add((outgoing.value, outgoing.headers))
                self.promised.setdefault("raw", message)
            else:
                self.promised[message.id] = message

    def worker_read(self, books: Books, partition: Partition, offset: int) -> None:
        """A worker tells the broker that all below `offset` is done."""
        log = self.system.broker.log(partition)
        if self.system.world.faults["topic.truncated"]:
            return  # other records have their offsets now, and nobody can tell
        for record in log.read(max(0, log.begin), offset):
            key = header(record.headers, "ce_sagakey")
            if key is None or self.system.forged(record):
                continue
            if key not in books.inbox and key not in self.system.forgotten:
                raise Violation("S8Replies", f"{partition}@{record.offset} counts as handled, and {key} is unknown")
            command = header(record.headers, "ce_id")
            if command not in self.answered:
                if any(header(later.headers, "ce_id") == command for later in log.read(offset, 1_000_000)):
                    continue  # a copy that overtook it is still open, and is answered with every delivery
                if len(self.begun[command]) > 1 and key in books.inbox and books.inbox[key]["lease"] > 1:
                    continue  # two deliveries began it, and the later one answers; if it dies, silence is noticed
                raise Violation("S8Replies", f"{partition}@{record.offset} counts as handled, and has no reply")

    def acknowledged(self, record: Outgoing) -> None:
        """The broker says that it has a record, which may be a lie."""
        if record.topic.endswith(".replies"):
            self.answered.add(header(record.headers, "ce_causationid"))

    def forgotten(self, message_ids: Sequence[str]) -> None:
        """Rows of an outbox are deleted."""
        for message_id in message_ids:
            message = self.promised.get(message_id)
            if message is not None and message_id not in self.published:
                raise Violation("S5Outbox", f"row {message_id} ({message.type}) is deleted, and was never published")

    def appended(self, record: Record) -> None:
        self.kept.append(record)
        world = self.system.world
        self.appended_at[id(record)] = world.db_micros(), world.now
        message_id = header(record.headers, "ce_id")
        if record.topic.endswith(".commands") and message_id in self.published:
            self.system.world.points["resent"] += 1
        for oracle in self._append:
            oracle.append(record, message_id)
        if message_id is not None and message_id not in self.published:
            self.published[message_id] = record

    def given(self, records: Sequence[Record]) -> None:
        for oracle in self._given:
            oracle.given(records)

    def booked(self, books: Books, session: BookSession) -> None:
        self.promise(session.messages)
        for key, row in session.rows.items():
            before = session.before.get(key) or {}
            for column in ("invoke_reply", "compensate_reply"):
                stored = row and row[column]
                if stored and stored != before.get(column):
                    self.replies.add(unpack(stored).id)
        self.replies.update(superseded(session.answers, session.rows))
        if any(row is not None and row["tombstone"] and not row["attempt"] for row in session.rows.values()):
            self.system.world.points["undo_before_do"] += 1
        for oracle in self._booked:
            oracle.booked(books, session)

    def end(self, system: System) -> None:
        """Judge the system at rest."""
        for oracle in self.every:
            oracle.end(system)


_POINTS: Mapping[type, str] = {
    e.StepInDoubt: "in_doubt",
    e.UndoDeferred: "deferred",
    e.StepUnknown: "unknown",
    e.StepParked: "parked",
    e.Undriven: "blocked",
    e.StopHeld: "held",
    e.ProgressReported: "progress",
    e.Continued: "continued",
}
#: Events at which some oracle looks; S3 wants all of them only after the end, which S4 sees as well.
_JUDGED: frozenset[type] = frozenset(
    (
        e.StepSucceeded, e.StepFailed, e.StepUnknown, e.StepSkipped, e.StepInDoubt, e.StepUndone, e.UndoDeferred,
        e.RetryPlanned, e.CommandSent, e.CommandResent, e.TimerFired, e.StopRequested, e.Ended, e.SignalReceived,
        e.ProgressReported, e.StepParked, e.Redriven, e.Undriven,
        e.StopHeld, e.DeadlineMissed, e.RunEnded, e.Continued, e.UndoRequested,
    )
)  # fmt: skip
