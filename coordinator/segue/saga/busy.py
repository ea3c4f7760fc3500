"""A watchdog over the code of sagas: what does not come to rest is named, interrupted and blocked, and others go on.

Saga code runs in the coordinator's thread. Where it computes for ever between two awaits (`while True`), nothing else
moves. A thread looks at what runs; after `limit` seconds it tells saga and line, and raises `Busy` in that
thread. That reaches Python code alone: a call of C that does not come back is named, but can't be interrupted.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import msgspec

#: Seconds that the code of one saga may take between two awaits.
LIMIT = 10.0


class Busy(BaseException):
    """The saga's code did not come to rest. Not an Exception: `except Exception` lets it pass."""

    def __str__(self) -> str:
        return "it ran for too long without an await, and was interrupted"


class _Run(msgspec.Struct, gc=False):
    saga_id: str
    #: When it was seen first, by the watchdog's clock; None: not yet.
    since: float | None = None
    interrupted: bool = False


#: What runs, by thread; kept only while somebody watches.
_runs: dict[int, _Run] = {}
_lock = threading.Lock()
_watchers = 0


def guarded(saga_id: str, code: Callable[[], object]) -> None:
    """Run `code`, and let the watchdog interrupt it: this ends in `Busy` then, whatever the code made of it."""
    thread = threading.get_ident()
    if not _watchers or thread in _runs:
        code()
        return
    run = _Run(saga_id)
    _runs[thread] = run
    try:
        try:
            code()
        finally:
            _end(thread, run)
    except Busy:
        _end(thread, run)  # it may have come in the middle of that
        raise
    if run.interrupted:
        raise Busy


def _end(thread: int, run: _Run) -> None:
    with _lock:
        _runs.pop(thread, None)
        if run.interrupted:
            _raise_in(thread, None)  # it may not have come yet


class Watchdog:
    """Looks at what runs; `tell` gets the saga and the line of each that takes too long, in the watchdog's thread."""

    def __init__(self, tell: Callable[[str, str], None], limit: float = LIMIT) -> None:
        self._tell = tell
        self._limit = limit

    def look(self, now: float) -> None:
        """One look, at `now` (seconds, of any clock that does not go back)."""
        frames = sys._current_frames()  # noqa: SLF001 - the only way to another thread's line
        for thread, run in list(_runs.items()):
            if run.since is None:
                run.since = now
            elif now - run.since >= self._limit:
                run.since = now
                self._tell(run.saga_id, _line_of(frames.get(thread)))
                with _lock:
                    if _runs.get(thread) is run:
                        run.interrupted = True
                        _raise_in(thread, Busy)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sagas that run meanwhile are watched."""
        global _watchers  # noqa: PLW0603 - one for the process: threads are the process's
        with _lock:
            _watchers += 1
        try:
            yield
        finally:
            with _lock:
                _watchers -= 1

    @contextmanager
    def thread(self, monotonic: Callable[[], float]) -> Iterator[None]:
        """Look by a thread of its own, until the block is left."""
        over = threading.Event()

        def keep_looking() -> None:
            while not over.wait(self._limit / 10):
                self.look(monotonic())

        looking = threading.Thread(target=keep_looking, name="segue-watchdog", daemon=True)
        with self.watching():
            looking.start()
            try:
                yield
            finally:
                over.set()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread at its next line of Python; None takes back what has not come yet."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _line_of(frame: FrameType | None) -> str:
    """`sagas.py:17`: the innermost line that is the user's."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in ("segue", "asyncio"):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
