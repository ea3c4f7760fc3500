"""The relay: publishes what is in the outbox and deletes it once Kafka has it.

Keys are spread over lanes and lanes are leased to relays, so that one relay sends all messages of a key. Of each key
one message is under way at a time: a message that fails holds back the later ones of its key, and nobody else. Rows
are never updated and never skipped: whatever is in the table is unpublished (a cursor on `seq` would lose rows whose
transaction commits late). Nothing is sent inside a database transaction.

A relay that lost its lanes without noticing sends duplicates, but still in order: so the leases save work, and the
order of first copies does not hang on a clock.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType

from sqlalchemy import Engine, create_engine

from segue.clock import SYSTEM_CLOCK, Clock, fresh_id, spread
from segue.errors import ConfigError, InputError
from segue.failpoints import hit
from segue.observe import SILENT, Observer
from segue.outbox.handoff import Bell
from segue.outbox.sql import SqlOutboxStore
from segue.outbox.store import Exclusion, OutboxStore, PendingRow
from segue.topics.broker import Producer

Line = tuple[str, str]

_NOTHING_EXCLUDED = Exclusion()

#: Lines that are excluded from loading by name; with more of them the relay pauses as a whole.
MAX_BLOCKED_LINES = 200
#: Most rows that are held at a time, and most bytes of them, beside one page.
MOST_ROWS, MOST_BYTES = 16_000, 32 * 1024 * 1024
#: Most rows that are loaded at once: while they are, no acknowledgement is heard.
MOST_AT_ONCE = 2000
#: What a row takes beside its payload, in bytes, about.
ROW_BYTES = 1536


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Bounds and intervals of a relay."""

    #: Leave commands and replies that are younger to whoever wrote them and publishes them from memory; None: take all.
    older_than: timedelta | None = None
    #: Rows that are loaded at a time, to begin with; more of them while the outbox is full.
    batch: int = 500
    #: How long a lane belongs to a relay that is not heard of.
    lease: timedelta = timedelta(seconds=15)
    #: Tries of a record that the broker refuses for good, before its row is quarantined.
    tries: int = 3
    #: Seconds of the shortest and the longest pause between two looks into an empty outbox.
    shortest_pause: float = 0.02
    longest_pause: float = 1.0
    #: Seconds for which a key or a topic that failed is left alone.
    penalty: float = 1.0
    #: Seconds that a step waits for acknowledgements when it has nothing else to do.
    patience: float = 0.01


class Relay:
    """Publishes the outbox of one database; any number of them may run at once.

    `step` does what can be done now. `run` drives it until an event is set; `async with Relay(...)` and `with
    Relay(...)` run it in a thread for the lifespan of an application. `store` is an engine, a URL, or a store.
    """

    def __init__(
        self,
        store: OutboxStore | Engine | str,
        producer: Producer,
        *,
        options: RelayOptions = RelayOptions(),
        owner: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        observer: Observer = SILENT,
    ) -> None:
        if isinstance(store, str):
            store = create_engine(store, hide_parameters=True)
        self._store: OutboxStore = SqlOutboxStore(store) if isinstance(store, Engine) else store
        self._producer = producer
        self._options = options
        self._owner = owner or fresh_id()
        self._clock = clock
        self._observer = observer
        self._bell = Bell()
        self._lanes: Mapping[int, int] = {}
        self._renew_at = 0.0
        self._lost_at = 0.0
        self._lines: dict[Line, deque[PendingRow]] = {}
        self._ready: deque[Line] = deque()
        self._flying: dict[int, PendingRow] = {}
        self._landed: deque[tuple[PendingRow, Exception | None]] = deque()
        self._acked: dict[int, PendingRow] = {}
        self._refused: list[tuple[PendingRow, str]] = []
        self._tries: dict[int, int] = {}
        self._blocked: dict[Line, float] = {}
        self._blocked_topics: dict[str, float] = {}
        self._paused_until = 0.0
        self._full = False
        #: Rows to hold at a time.
        self._window = options.batch
        self._pause = options.shortest_pause
        self._next_look = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    # --- the step

    def step(self) -> bool:
        """Lease, load, send, hear, delete; whether anything was done. Raises what the store raises."""
        now = self._clock.monotonic()
        self._renew(now)
        moved = self._hear(now)
        # What can go goes first: Kafka works on it while the database is asked.
        moved |= self._send(now)
        moved |= self._write_down(now)
        moved |= self._load(now)
        moved |= self._send(now)
        if self._flying and not moved:
            self._producer.poll(self._options.patience)
            moved = self._hear(self._clock.monotonic())
        return moved or bool(self._flying)

    def step_when_due(self) -> bool:
        """A step, unless the last ones found nothing and it is too early to look again. Never raises."""
        now = self._clock.monotonic()
        if self._bell.wait(0.0):
            self._pause, self._next_look = self._options.shortest_pause, now
        if now < self._next_look and not self._flying and not self._landed and not self._acked:
            return False
        try:
            moved = self.step()
        except Exception as error:  # noqa: BLE001 - nothing stops a relay; it tries again until the database is back
            self._observer.event("relay.failed", error=error)
            moved, self._pause = False, self._options.longest_pause
        if moved:
            self._pause, self._next_look = self._options.shortest_pause, now
        else:
            self._next_look = now + spread(self._pause)
            self._pause = min(self._options.longest_pause, self._pause * 2)
        return moved

    @property
    def idle(self) -> bool:
        """Nothing is loaded, under way, or waiting to be deleted."""
        return not (self._lines or self._flying or self._landed or self._acked or self._refused)

    def shut(self, timeout: float = 5.0) -> None:
        """Send nothing new, hear what is under way, delete it, give up the lanes."""
        self._ready.clear()
        self._producer.flush(timeout)
        now = self._clock.monotonic()
        self._hear(now)
        self._ready.clear()
        try:
            self._write_down(now)
            self._store.release(self._owner)
        except Exception as error:  # noqa: BLE001 - the rows stay, the leases end by themselves
            self._observer.event("relay.failed", error=error)
        self._lines.clear()

    # --- lanes

    def _renew(self, now: float) -> None:
        if now < self._renew_at:
            return
        lease = self._options.lease
        if now >= self._lost_at:
            self._forget_lanes(set(self._lanes))  # the lease ended before it could be renewed
        before, self._lanes = self._lanes, self._store.lease(self._owner, lease)
        self._renew_at = now + lease.total_seconds() / 3
        self._lost_at = now + lease.total_seconds() * 0.9
        if self._lanes != before:
            self._forget_lanes({lane for lane, token in before.items() if self._lanes.get(lane) != token})

    def _forget_lanes(self, lost: set[int]) -> None:
        if not lost:
            return
        for line, rows in list(self._lines.items()):
            if rows[0].lane in lost:
                self._forget_line(line)

    def _forget_line(self, line: Line) -> None:
        """Drop what is loaded of this key and not under way; it is loaded again in its turn."""
        rows = self._lines.pop(line, None)
        if rows and rows[0].seq in self._flying:
            self._lines[line] = deque([rows[0]])
        elif line in self._ready:
            self._ready.remove(line)

    # --- loading and sending

    def _load(self, now: float) -> bool:
        held = sum(map(len, self._lines.values())) + len(self._acked) + len(self._refused)
        limit = max(self._options.batch, min(self._window // 2, MOST_AT_ONCE))
        if now < self._paused_until or held > (self._window - limit if self._full else 0) or not self._lanes:
            return False
        known = self._known()
        rows = self._store.load(
            self._owner,
            limit,
            memory_first_for=self._options.older_than,
            excluded=self._exclusion(now, known),
        )
        if rows:
            hit("relay.after_load")
        fresh = [row for row in rows if row.seq not in known]
        self._full = len(fresh) >= limit
        self._take(fresh)
        self._window = self._fitting(fresh)
        return bool(fresh)

    def _known(self) -> set[int]:
        """The rows that are held."""
        if self.idle:
            return set()
        known = {row.seq for line in self._lines.values() for row in line}
        known.update(self._flying, self._acked, (row.seq for row, _ in self._refused))
        return known

    def _fitting(self, rows: Sequence[PendingRow]) -> int:
        """How many rows to hold: of each key one is under way, so that a backlog moves as fast as it has keys."""
        if not self._full:
            return self._options.batch
        size = sum(len(row.record.value or b"") for row in rows if row.record is not None) // len(rows)
        wanted = self._window if len(self._lines) >= self._options.batch else 2 * self._window
        return max(self._options.batch, min(wanted, MOST_ROWS, MOST_BYTES // (size + ROW_BYTES)))

    def _take(self, fresh: Sequence[PendingRow]) -> None:
        for row in fresh:
            line = self._line(row)
            waiting = self._lines.get(line)
            if waiting is None:
                self._lines[line] = deque((row,))
                self._ready.append(line)
            elif row.seq > waiting[-1].seq:
                waiting.append(row)
            else:
                # Its transaction committed after those of later rows, which are loaded already.
                under_way = 1 if waiting[0].seq in self._flying else 0
                rest = sorted([*list(waiting)[under_way:], row], key=lambda later: later.seq)
                self._lines[line] = deque([*list(waiting)[:under_way], *rest])

    def _send(self, now: float) -> bool:
        if now < self._paused_until or now >= self._lost_at:
            return False
        sent = 0
        while self._ready:
            line = self._ready.popleft()
            row = self._lines[line][0]
            if row.record is None:
                self._refused.append((row, row.fault))
                self._next_of(row)
                continue
            self._flying[row.seq] = row
            try:
                self._producer.send(row.record, partial(self._land, row))
            except Exception as error:  # noqa: BLE001 - a full queue, or a closed producer: heard like any refusal
                self._landed.append((row, error))
                break
            sent += 1
        if sent:
            hit("relay.after_send")
        return sent > 0

    def _land(self, row: PendingRow, error: Exception | None) -> None:
        self._landed.append((row, error))

    def _hear(self, now: float) -> bool:
        if self._flying:
            self._producer.poll(0.0)
        moved = bool(self._landed)
        while self._landed:
            row, error = self._landed.popleft()
            if self._flying.pop(row.seq, None) is None:
                continue
            if error is None:
                self._acked[row.seq] = row
                self._tries.pop(row.seq, None)
                self._next_of(row)
            else:
                self._refuse(row, error, now)
        return moved

    def _next_of(self, row: PendingRow) -> None:
        line = self._line(row)
        rows = self._lines.get(line)
        if rows is None:
            return
        if rows[0].seq == row.seq:
            rows.popleft()
        if rows:
            self._ready.append(line)
        else:
            del self._lines[line]

    # --- failures

    def _refuse(self, row: PendingRow, error: Exception, now: float) -> None:
        self._observer.event("relay.send.failed", seq=row.seq, topic=row.topic, error=error)
        line = self._line(row)
        penalty = now + spread(self._options.penalty)
        if isinstance(error, InputError):
            tries = self._tries[row.seq] = self._tries.get(row.seq, 0) + 1
            if tries >= self._options.tries:
                self._refused.append((row, f"{type(error).__name__}: {error}"))
                self._next_of(row)
                return
            self._blocked[line] = penalty
        elif isinstance(error, ConfigError):
            self._blocked_topics[row.topic] = penalty
        else:
            self._paused_until = penalty
        self._lines.pop(line, None)  # loaded again, in order, when the penalty is over

    def _exclusion(self, now: float, known: set[int]) -> Exclusion:
        if not (known or self._blocked or self._blocked_topics):
            return _NOTHING_EXCLUDED
        self._blocked = {line: until for line, until in self._blocked.items() if until > now}
        self._blocked_topics = {topic: until for topic, until in self._blocked_topics.items() if until > now}
        if len(self._blocked) > MAX_BLOCKED_LINES:
            self._paused_until = max(self._blocked.values())
            self._blocked.clear()
        return Exclusion(topics=tuple(self._blocked_topics), lines=tuple(self._blocked), held=known)

    # --- writing down

    def _write_down(self, now: float) -> bool:
        """Delete what Kafka has, once there is a batch of it or nothing else to wait for."""
        moved = False
        if self._acked and (len(self._acked) >= min(self._window // 2, MOST_AT_ONCE) or not self._flying):
            hit("relay.before_delete")
            self._store.delete(list(self._acked))
            self._observer.count("relay.published", len(self._acked))
            self._acked.clear()
            moved = True
        while self._refused:
            row, error = self._refused[-1]
            self._store.quarantine(row, error, self._tries.get(row.seq, 1))
            self._observer.event("relay.row.dead", seq=row.seq, topic=row.topic, error=error)
            self._tries.pop(row.seq, None)
            self._refused.pop()
            moved = True
        return moved

    @staticmethod
    def _line(row: PendingRow) -> Line:
        # Without a key there is no order to keep: every row is a line of its own.
        return (row.topic, row.key or f"\x00{row.seq}")

    # --- drivers

    def run(self, stop: threading.Event) -> None:
        """Step until `stop` is set (noticed within `longest_pause`, at once if the bell rings), then shut."""
        while not stop.is_set():
            if self.step_when_due():
                continue
            if self._bell.wait(max(0.0, self._next_look - self._clock.monotonic())):
                self._pause, self._next_look = self._options.shortest_pause, 0.0
        self.shut()

    def __enter__(self) -> Relay:
        if self._thread is not None:
            raise RuntimeError("this relay is running already")
        self._stop.clear()
        self._thread = threading.Thread(target=self.run, args=(self._stop,), name="segue-relay", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def __aenter__(self) -> Relay:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, at)
