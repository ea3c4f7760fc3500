"""A command that was asked to stop ends, also where a client library never comes back and holds the interpreter."""

from __future__ import annotations

import signal
import subprocess
import sys

#: A call into C that keeps the interpreter to itself: no Python runs any more, no handler of a signal either.
HANG = "ctypes.PyDLL(None).pause()"
PROGRAM = """
import ctypes, signal
from segue.cli import stopping
stopping._HANGS_AFTER = stopping._ENDS_WITHIN = {after}
with stopping.stopping(drain={drain}) as stop:
    signal.raise_signal(signal.SIGTERM)
    print("told" if stop.is_set() else "not told", flush=True)
    {rest}
print("over", flush=True)
{then}
"""


def started(
    *, rest: str = "pass", then: str = "", after: float = 0.2, drain: float | None = 0.0
) -> subprocess.Popen[str]:
    program = PROGRAM.format(after=after, drain=drain, rest=rest, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def test_a_command_that_hangs_after_its_time_to_drain_says_where_and_ends() -> None:
    with started(rest=HANG) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "told\n")
    assert "Timeout" in error
    assert 'File "<string>"' in error


def test_a_second_signal_ends_a_command_that_hangs() -> None:
    with started(rest=HANG, after=3600.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_command_that_drains_in_time_ends_as_it_should() -> None:
    with started(after=60.0) as process:
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "told\nover\n")


def test_a_command_that_has_drained_ends_although_a_handler_in_a_thread_does_not() -> None:
    thread = "import threading; threading.Thread(target=threading.Event().wait, name='handler').start()"
    with started(then=thread) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "told\nover\n")
    assert "Timeout" in error
