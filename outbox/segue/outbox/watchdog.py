"""A client-side deadline on every database call.

A driver that waits for an answer on a half-open connection waits for ever, whatever the keepalives are set to (measured
with a proxy that acknowledges TCP but drops the replies). So a second thread cuts the connection at the deadline, and
the call raises. Arming costs a dictionary entry and no system call; the thread wakes about once per deadline.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from weakref import WeakSet

from segue.clock import SYSTEM_CLOCK, Clock


class Guard:
    """The deadline of one call; a context manager. `fired`: the connection was cut and must be discarded."""

    __slots__ = ("_cut", "_watchdog", "deadline", "fired")

    def __init__(self, watchdog: Watchdog, cut: Callable[[], None]) -> None:
        self._watchdog = watchdog
        self._cut = cut
        self.deadline = 0.0
        self.fired = False

    def __enter__(self) -> Guard:
        self._watchdog.arm(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.disarm(self)

    def fire(self) -> None:
        self.fired = True
        self._cut()


class Watchdog:
    """Cuts the connections of calls that take longer than `timeout`. One daemon thread, started with the first call."""

    def __init__(
        self, timeout: timedelta, *, clock: Clock = SYSTEM_CLOCK, fired: Callable[[], None] = lambda: None
    ) -> None:
        self._timeout = timeout.total_seconds()
        self._clock = clock
        self._fired = fired
        self._closed = False
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._armed: dict[Guard, None] = {}
        self._wake = threading.Condition()
        self._idle = False
        self._thread: threading.Thread | None = None

    def guard(self, cut: Callable[[], None]) -> Guard:
        """A guard for the calls on one connection, one at a time; `cut` must make a waiting call return."""
        return Guard(self, cut)

    def arm(self, guard: Guard) -> None:
        guard.deadline = self._clock.monotonic() + self._timeout
        self._armed[guard] = None
        if self._idle or self._thread is None:
            self._rouse()

    def disarm(self, guard: Guard) -> None:
        # The thread is not told: it wakes at the old deadline, sees what is armed then, and goes back to sleep.
        self._armed.pop(guard, None)

    def close(self) -> None:
        """Stop the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _rouse(self) -> None:
        with self._wake:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="segue-watchdog", daemon=True)
                self._thread.start()
            self._idle = False
            self._wake.notify()

    def _run(self) -> None:
        with self._wake:
            while not self._closed:
                pause = self._pause()
                # `arm` looks at `_idle` without the lock, after it added its guard: set it first, then look once more.
                self._idle = pause is None
                if pause is None and self._armed:
                    continue
                self._wake.wait(pause)

    def _pause(self) -> float | None:
        """Fire what is late; seconds to the next deadline, None if nothing is armed."""
        now = self._clock.monotonic()
        waiting = list(self._armed)
        for guard in waiting:
            if guard.deadline <= now and self._armed.pop(guard, self) is None:
                self._fired()
                guard.fire()
        deadlines = [guard.deadline for guard in waiting if guard.deadline > now]
        return min(deadlines) - now if deadlines else None


_ALL: WeakSet[Watchdog] = WeakSet()


def _forked() -> None:
    # A parent's thread does not live on in its child. What the parent is waiting for is not the child's to cut: the two
    # have the same sockets.
    for watchdog in list(_ALL):
        watchdog._begin()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forked)
