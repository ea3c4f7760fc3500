"""When a long-running command stops: at SIGTERM and SIGINT, and where asked for, when its standard input ends."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segue.clock import SYSTEM_CLOCK

#: Seconds after which a process that should have drained hangs.
_HANGS_AFTER = 30.0
#: Seconds that a drained process has to end. A handler that does not come back would keep it: Python waits for threads.
_ENDS_WITHIN = 5.0
#: Its number: what stands in for `sys.stderr` may have none.
_STDERR = 2
#: Seconds that an orphan has to end by itself.
_EOF_PATIENCE = 2.0


@contextmanager
def stopping(*, at_eof: bool = False, drain: float | None = None) -> Iterator[threading.Event]:
    """An event that is set by the first SIGTERM or SIGINT; a second one ends the process the hard way.

    What has not ended long after the `drain` seconds that it may take hangs in a client library: the process says
    where, and ends with code 1. So does one that is drained and does not end. Nothing is lost by a hard end, here as
    anywhere.

    `at_eof` is for children of `segue dev`: a parent that is killed can tell them nothing, but its pipe closes.
    """
    stop = threading.Event()
    before: dict[int, Any] = {}

    def handle(number: int, _frame: object) -> None:
        # The second one must be lethal also where Python does not run any more: in a call that holds the interpreter.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        if drain is not None:
            faulthandler.dump_traceback_later(drain + _HANGS_AFTER, exit=True, file=_STDERR)
        stop.set()

    # Signals are for the main thread; elsewhere (tests) the caller sets the event.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    if at_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), name="segue-stdin", daemon=True).start()
    try:
        yield stop
    finally:
        if drain is not None and stop.is_set():
            faulthandler.dump_traceback_later(_ENDS_WITHIN, exit=True, file=_STDERR)
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
