"""Child processes of one command: their output by name, their end noticed, their stop in order.

A child that dies is started again, later each time. Children stop when their standard input closes, so that none
is left when the parent is killed.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO

from segue.clock import SYSTEM_CLOCK, Clock

#: Seconds before a child that died is started again: the first time, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
#: A child that lived so long (seconds) died of something new.
_HEALTHY = 30.0

#: Told every line of every child: (its name, the line).
Printed = Callable[[str, str], None]


@dataclass(slots=True)
class Child:
    """A command that is kept running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started_at: float = 0.0
    pause: float = _FIRST_PAUSE
    start_at: float = 0.0
    #: Exit codes with which it is not started again: wrong settings stay wrong.
    final: frozenset[int] = field(default_factory=lambda: frozenset((0, 1, 2)))
    ended: int | None = None


class Children:
    """Keeps children running until they are stopped. All calls are made from one thread."""

    def __init__(self, printed: Printed, environment: Mapping[str, str], clock: Clock = SYSTEM_CLOCK) -> None:
        self._printed = printed
        self._environment = dict(environment)
        self._clock = clock
        self._children: list[Child] = []
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def add(self, name: str, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start a child; `environment`: what only this one gets."""
        child = Child(name, command, environment)
        self._children.append(child)
        self._start(child)

    def step(self, wait: float) -> list[Child]:
        """Print what was said within `wait` seconds, start again what died; the children that have ended for good."""
        self._print(wait)
        now = self._clock.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, now)
            elif child.process is None and child.ended is None and now >= child.start_at:
                self._start(child)
        return [child for child in self._children if child.ended is not None]

    def stop(self, patience: float) -> None:
        """Ask all to drain, wait for `patience` seconds, then kill what is left."""
        running = [child for child in self._children if child.process is not None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        give_up = self._clock.monotonic() + patience
        while any(_alive(child) for child in running) and self._clock.monotonic() < give_up:
            self._print(0.05)
        for child in running:
            self._reap(child)
        self._print(0.0)

    def _start(self, child: Child) -> None:
        # A session of its own: Ctrl-C reaches the parent alone, which stops its children in order.
        child.process = subprocess.Popen(  # noqa: S603 - our own command with the user's module names
            child.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **child.environment},
            start_new_session=True,
        )
        child.started_at = self._clock.monotonic()
        assert child.process.stdout is not None
        child.reader = threading.Thread(target=self._read, args=(child.name, child.process.stdout), daemon=True)
        child.reader.start()

    def _ended(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        lived = now - child.started_at
        self._reap(child)
        if code in child.final:
            child.ended = code
            return
        child.pause = _FIRST_PAUSE if lived > _HEALTHY else min(child.pause * 2, _LONGEST_PAUSE)
        child.start_at = now + child.pause
        self._printed(child.name, f"ended with exit code {code}; started again in {child.pause:g} s")

    def _reap(self, child: Child) -> None:
        process, child.process = child.process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if child.reader is not None:
            child.reader.join()
        if process.stdout is not None:
            process.stdout.close()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put((name, line.decode("utf-8", "replace").rstrip("\n")))

    def _print(self, wait: float) -> None:
        try:
            self._printed(*self._lines.get(timeout=wait) if wait else self._lines.get_nowait())
            while True:
                self._printed(*self._lines.get_nowait())
        except queue.Empty:
            return


def _alive(child: Child) -> bool:
    return child.process is not None and child.process.poll() is None
