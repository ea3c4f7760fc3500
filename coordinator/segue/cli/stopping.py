"""When a long-running command stops: at SIGTERM and SIGINT, and where asked for, when its standard input ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segue.clock import SYSTEM_CLOCK

#: Seconds that an orphan has to end by itself.
_EOF_PATIENCE = 2.0


@contextmanager
def stopping(*, at_eof: bool = False) -> Iterator[threading.Event]:
    """An event that is set by the first SIGTERM or SIGINT; a second one ends the process the hard way.

    `at_eof` is for children of `segue dev`: a parent that is killed can tell them nothing, but its pipe closes.
    """
    stop = threading.Event()
    before: dict[int, Any] = {}

    def handle(number: int, _frame: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    # Signals are for the main thread; elsewhere (tests) the caller sets the event.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    if at_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), name="segue-stdin", daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_eof(stop: threading.Event) -> None:
    # Not through `sys.stdin`: a thread that waits in its buffer aborts the interpreter when it ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()
    # The broker was the parent's and is gone: what waits for its answers would do so for most of a minute. Nothing is
    # lost by a hard end, here as anywhere.
    SYSTEM_CLOCK.sleep(_EOF_PATIENCE)
    os._exit(1)
