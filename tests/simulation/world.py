"""Virtual time and the processes in it: each is a greenlet that runs a production loop over simulated ports.

A port tells its process of every boundary that it crosses (`Process.io`): there the scheduler may run others first,
for a moment or for a minute, the process may die, and the call may fail. Nothing polls: a process whose turn did
nothing sleeps till its own next moment, or till something it reads has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heappop, heappush
from math import ceil
from zlib import crc32

from greenlet import getcurrent, greenlet

from segue.clock import EPOCH, from_micros
from segue.outbox.deadline import CALL_TIMEOUT
from segue.topics.broker import Partition, Record
from tests.simulation.tape import Stream, Tape

SECOND = 1_000_000
#: The virtual day on which everything happens.
EPOCH_US = 1_767_225_600 * SECOND
#: What a pause may last, in microseconds: others get a word in, a lease or a session ends, a deadline passes.
PAUSES = (1_000, 3_000, 10_000, 50_000, 200_000, 1_000_000, 3_000_000, 9_000_000, 25_000_000)
#: Turns of all processes together, after which a schedule counts as one that never comes to rest.
MAX_TURNS = 60_000


class Killed(BaseException):
    """kill -9: nothing in the product catches it, but a worker what is raised below a handler; see `SimRunner`."""


class Restless(Exception):
    """The system does not come to rest."""


class World:
    """The scheduler."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.now = 0
        self.turns = 0
        self._heap: list[tuple[int, int, Process | Callable[[], object]]] = []
        self._serial = 0
        self.processes: list[Process] = []
        self.points: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.enabled: frozenset[str] = frozenset()
        #: How often somebody else gets a turn between a transaction's last statement and its COMMIT.
        self.interleave = 0.0
        #: How often a record does not simply arrive.
        self.wire_rate = 0.0
        #: The database's clock, ahead of the world's.
        self.db_skew = 0
        #: The latest time that it showed before it stepped back.
        self.db_most = 0
        #: World time at which it did.
        self.db_back_at = -1
        self.healed = False
        self.digest = 0
        self._moment_of = -1
        self._moment = EPOCH

    def db_micros(self) -> int:
        return EPOCH_US + self.now + self.db_skew

    def db_now(self) -> datetime:
        """The coordinator's database's clock."""
        micros = self.now + self.db_skew
        if micros != self._moment_of:
            self._moment_of, self._moment = micros, from_micros(EPOCH_US + micros)
        return self._moment

    def at(self, when: int, what: Callable[[], object]) -> None:
        """Call `what` at the virtual time `when`."""
        self._serial += 1
        heappush(self._heap, (when, self._serial, what))

    def wake(self, process: Process, when: int) -> None:
        """Give a sleeping process a turn at `when`, unless it has an earlier one."""
        if process.busy:
            process.told = True
            return
        if when >= process.due or not process.alive:
            return
        self.put(process, when)

    def put(self, process: Process, when: int) -> None:
        """The process's next turn is at `when`."""
        self._serial += 1
        process.due = when
        process.entry = self._serial
        heappush(self._heap, (when, self._serial, process))

    def run(self, until: int) -> None:
        """Let everything happen up to the virtual time `until`; what is left is later, or nothing."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, serial, what = heappop(heap)
            if isinstance(what, Process):
                if what.entry != serial:
                    continue
                self.now = max(self.now, when)
                self.turns += 1
                if self.turns > MAX_TURNS:
                    raise Restless(f"{MAX_TURNS} turns, and still at it")
                what.resume()
            else:
                self.now = max(self.now, when)
                what()

    @property
    def next_at(self) -> int | None:
        """When something happens next; None at rest."""
        while self._heap:
            when, serial, what = self._heap[0]
            if not isinstance(what, Process) or what.entry == serial:
                return when
            heappop(self._heap)
        return None

    def note(self, *what: object) -> None:
        """Mix into the trace's hash: the same seed must give the same trace."""
        self.digest = crc32(repr(what).encode(), self.digest)


NEVER = 1 << 62


class Body(greenlet):
    """What a process runs in."""

    def __init__(self, process: Process) -> None:
        super().__init__(process._main)
        self.process = process


class Process:
    """One simulated process; subclasses build the product's objects (`boot`) and take turns with them (`turn`)."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.stream: Stream = world.tape.stream(name)
        #: Seconds by which its wall clock is off, and microseconds by which its monotonic clock has jumped.
        self.skew_us = 0
        self.jumped_us = 0
        self.incarnation = 0
        self.alive = False
        #: In the middle of a turn (running, or frozen at a boundary).
        self.busy = False
        self.due = NEVER
        self.entry = 0
        self.idle = 0
        #: The record that its consumer was given last at each place (partition and offset).
        self.given: dict[tuple[Partition, int], Record] = {}
        #: A port has failed in this turn.
        self.hurt = False
        #: Something has changed while it was in the middle of a turn.
        self.told = False
        #: How long it waits for an answer of its database.
        self.call_timeout = CALL_TIMEOUT
        self.greenlet: Body | None = None
        world.processes.append(self)

    # --- for subclasses

    def boot(self) -> None:
        """Make the product's objects, with empty memory."""
        raise NotImplementedError

    def turn(self) -> bool:
        """One step of the loop; whether there was something to do."""
        raise NotImplementedError

    def more(self) -> bool:
        """A turn that did something has left something to do at once."""
        raise NotImplementedError

    def next_time(self) -> int:
        """When the loop would find something to do by itself; NEVER: only once it is told."""
        raise NotImplementedError

    def rests(self) -> None:
        """A turn has found nothing to do, and nothing failed."""

    def finish(self, end: Callable[[], None]) -> None:
        """A job is done; `end` tells who gave it."""
        end()

    def died(self) -> None:
        """What the rest of the world notices of its death."""

    # --- life

    def start(self, when: int | None = None) -> None:
        """Boot, and take the first turn at `when`."""
        self.incarnation += 1
        self.alive = True
        self.busy = False
        self.idle = 0
        self.greenlet = Body(self)
        self.world.put(self, self.world.now if when is None else when)

    def resume(self) -> None:
        """Let it run till it sleeps, freezes or dies."""
        self.due = NEVER
        self.busy = True
        assert self.greenlet is not None
        self.greenlet.parent = getcurrent()
        try:
            self.greenlet.switch()
        except Killed:
            self._gone()

    def die(self) -> None:
        """kill -9 at the boundary where it is."""
        self.alive = False
        raise Killed

    def kill(self) -> None:
        """kill -9 from outside, wherever it is."""
        if not self.alive:
            return
        self.alive = False
        victim, self.greenlet = self.greenlet, None
        if victim is not None and victim:
            victim.parent = getcurrent()
            try:
                victim.throw(Killed)
            except Killed:
                pass
        self._gone()

    def _gone(self) -> None:
        self.alive = False
        self.busy = False
        self.entry = 0
        self.due = NEVER
        self.died()

    def _main(self) -> None:
        self.boot()
        world = self.world
        while True:
            self.hurt = self.told = False
            worked = self.turn()
            self.busy = False
            self.idle = 0 if worked else self.idle + 1
            if not worked and not self.hurt:
                self.rests()
            when = world.now + 1_000 if worked and self.more() else self.next_time()
            if self.told:
                when = min(when, world.now + 1_000)
            if when < NEVER:
                world.put(self, when)
            self.hub()

    def hub(self) -> None:
        """Let others run till its next turn comes; it has to be put there by somebody."""
        current = getcurrent()
        assert current.parent is not None
        current.parent.switch()
        if not self.alive:
            raise Killed

    def backoff(self, first: int = 20_000, most: int = 1_000_000) -> int:
        """Longer and longer pauses between looks that find nothing."""
        return self.world.now + min(most, first << min(self.idle, 12))

    # --- boundaries

    def io(self, kinds: Sequence[str]) -> str | None:
        """A boundary at which one of `kinds` may happen; the port carries out the one that is returned."""
        if not self.alive:
            raise Killed
        stream = self.stream
        stream.faults += 1
        if stream.faults < stream.next_fault:
            return None
        return self._fault(kinds, stream.fault())

    def _fault(self, kinds: Sequence[str], number: int) -> str | None:
        enabled = self.world.enabled
        allowed = [kind for kind in kinds if kind in enabled]
        if not number or not allowed or self.world.healed:
            return None
        number -= 1
        kind = allowed[number % len(allowed)]
        self.world.faults[kind] += 1
        if kind == "pause":
            self.sleep(PAUSES[(number // len(allowed)) % len(PAUSES)])
            return None
        if kind == "kill":
            self.die()
        if kind in HURTS:
            self.hurt = True
        return kind

    def give_way(self) -> None:
        """Let others in between a transaction's last statement and its COMMIT."""
        rate = self.world.interleave
        if rate and self.stream.chance(rate):
            self.sleep(PAUSES[self.stream.pick(4)])

    def sleep(self, micros: int) -> None:
        """Freeze in the middle of what it does; the others go on."""
        if getcurrent() is not self.greenlet:
            return
        self.world.put(self, self.world.now + micros)
        self.hub()

    # --- the clock port

    def now(self) -> datetime:
        """The wall clock of this machine."""
        return from_micros(EPOCH_US + self.world.now + self.skew_us)

    def monotonic(self) -> float:
        """The monotonic clock of this machine, in seconds."""
        return (self.world.now + self.jumped_us) / SECOND + 1000.0

    def world_at(self, monotonic: float) -> int:
        """World time at which this machine's monotonic clock has come to `monotonic`."""
        return ceil((monotonic - 1000.0) * SECOND) - self.jumped_us + 1


#: Faults after which a loop has to find its way back.
HURTS = frozenset(("db.error", "db.hangs", "commit.failed", "commit.ambiguous", "broker.error"))
READ: Sequence[str] = ("pause", "kill", "db.error")
COMMIT: Sequence[str] = ("pause", "kill", "commit.failed", "commit.ambiguous", "kill.after_commit")
#: The same with calls that stay without an answer; a plan draws those after all others.
CALL: Sequence[str] = (*READ, "db.hangs")
CLOSE: Sequence[str] = (*COMMIT, "db.hangs")
POLL: Sequence[str] = ("pause", "kill", "broker.error")
ASK: Sequence[str] = ("pause", "kill", "broker.error")
SEND: Sequence[str] = (
    "pause",
    "kill",
    "kill.after_send",
    "send.error",
    "send.appended_error",
    "send.duplicate",
    "send.lost",
    "send.delayed",
)
WIRE: Sequence[str] = ("send.error", "send.appended_error", "send.duplicate", "send.lost", "send.delayed")
OFFSETS: Sequence[str] = ("pause", "kill", "offsets.lost")
FAULTS: Sequence[str] = tuple(dict.fromkeys((*READ, *COMMIT, *POLL, *SEND, *OFFSETS)))
