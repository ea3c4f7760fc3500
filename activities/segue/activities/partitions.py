"""What the loop knows of a partition: which records are open, in what order they may run, how far it may commit.

Pure bookkeeping. Records with the same key run one after the other, in order; the watermark is the offset below which
every record is done: handled, and its reply acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from segue.activities.handlers import Prepared
from segue.topics.broker import Outgoing, Record


@dataclass(slots=True, eq=False)
class Task:
    """One record on its way."""

    record: Record
    home: PartitionWork
    #: How often it failed for a reason that is not its own.
    tries: int = 0
    #: Not to be run before this moment (monotonic seconds).
    not_before: float = 0.0
    #: Its dead letter, once there is nothing left to do but to send that.
    dead: Outgoing | None = None
    #: Its command, once it was read.
    prepared: Prepared | None = None
    #: It was given out, and is not back; since when (monotonic seconds).
    taken: bool = False
    since: float = 0.0
    #: Its command came again while it was silent, and was answered then: what it still says is of no consequence.
    overtaken: bool = False

    def follows(self, other: Task) -> bool:
        """Whether it has to wait for `other`, or for what that waits for."""
        return self.home is other.home and self.record.key is not None and self.record.key == other.record.key


class PartitionWork:
    """The open records of one assigned partition."""

    def __init__(self) -> None:
        self._open: deque[int] = deque()
        self._done: set[int] = set()
        self._lines: dict[bytes | int, deque[Task]] = {}
        self._ready: deque[Task] = deque()
        #: Lines with a record that came while an earlier one was being handled.
        self._behind: set[bytes | int] = set()
        self._watermark: int | None = None
        self.running = 0
        #: Revoked: results that still come are of no consequence for offsets.
        self.lost = False
        #: The database is in trouble: nothing of this partition runs before this moment (monotonic seconds).
        self.stalled_until = 0.0
        self.stalls = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def watermark(self) -> int | None:
        """The offset to commit: all before it are done. None before anything was read."""
        return self._watermark

    def accept(self, record: Record, *, dead: Outgoing | None = None) -> None:
        """A record was read; `dead`: nothing is left to do but to send that."""
        if self._watermark is None:
            self._watermark = record.offset
        self._open.append(record.offset)
        task = Task(record, self, dead=dead)
        line_key = self._line_key(record)
        line = self._lines.get(line_key)
        if line is None:
            self._lines[line_key] = deque((task,))
            self._ready.append(task)
        else:
            line.append(task)
            if line[0].taken:
                self._behind.add(line_key)

    def next_behind(self, silent: Callable[[Task, Task], bool], now: float) -> Task | None:
        """A task that repeats one of the same key which is being handled, and `silent`: it is run beside that one."""
        for line_key in list(self._behind):
            line = self._lines.get(line_key, deque())
            waiting = [task for task in line if not task.taken]
            if not waiting or len(line) < 2:
                self._behind.discard(line_key)
            elif line[0].taken and waiting[0].not_before <= now and silent(line[0], waiting[0]):
                return self._given(waiting[0])
        return None

    def overtake(self, task: Task) -> None:
        """The task is handled: so are those of the same command that were begun before it and have never ended."""
        line = self._lines.get(self._line_key(task.record), ())
        before = task.record.offset
        for other in [other for other in line if other.record.offset < before and other.taken and _same(other, task)]:
            self.answered(other)
            self.delivered(other)
            other.overtaken = True
            self.running += 1  # till it ends

    def next_ready(self, now: float) -> Task | None:
        """A task that may run now; it counts as running until `finished` or `again`."""
        if self.stalled_until > now:
            return None
        for _ in range(len(self._ready)):
            task = self._ready.popleft()
            if task.not_before <= now:
                return self._given(task)
            self._ready.append(task)
        return None

    def next_after(self, task: Task, now: float) -> Task | None:
        """The task that follows a taken one with the same key, for those who run the two in this order."""
        for following in self._lines[self._line_key(task.record)]:
            if not following.taken:
                return self._given(following) if following.not_before <= now else None
        return None

    def again(self, task: Task) -> None:
        """It is to run once more, before all later ones of its key."""
        self.running -= 1
        if task.overtaken:
            return
        task.taken = False
        if self._lines[self._line_key(task.record)][0] is task:
            self._ready.append(task)

    def answered(self, task: Task) -> None:
        """It is handled, and its reply is on its way: the next of its key may run."""
        self.running -= 1
        if task.overtaken:
            return
        line_key = self._line_key(task.record)
        line = self._lines[line_key]
        if line[0] is not task:
            line.remove(task)
        else:
            line.popleft()
            if not line:
                del self._lines[line_key]
            elif not line[0].taken:
                self._ready.append(line[0])

    def delivered(self, task: Task) -> None:
        """Kafka has its reply: it is done, and the watermark may pass it."""
        if task.overtaken:
            return
        self._done.add(task.record.offset)
        while self._open and self._open[0] in self._done:
            offset = self._open.popleft()
            self._done.discard(offset)
            self._watermark = offset + 1

    def finished(self, task: Task) -> None:
        """Both at once: nobody waits for a reply."""
        self.answered(task)
        self.delivered(task)

    def _given(self, task: Task) -> Task:
        task.taken = True
        self.running += 1
        return task

    def drop_waiting(self) -> None:
        """Forget what does not run yet; what runs may still finish."""
        self.lost = True
        self._ready.clear()
        for line in self._lines.values():
            while len(line) > 1 and not line[-1].taken:
                line.pop()

    @staticmethod
    def _line_key(record: Record) -> bytes | int:
        return record.offset if record.key is None else record.key


def _same(one: Task, other: Task) -> bool:
    return (
        one.prepared is not None and other.prepared is not None and one.prepared.command.id == other.prepared.command.id
    )
