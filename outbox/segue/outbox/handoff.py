"""The hand-off of a commit to the relays of the same process: a bell that is rung after every commit with a message.

A hint that saves the relay its polling interval; nothing depends on it, for rows are found by polling as well.
"""

from __future__ import annotations

import threading
import weakref


class Bell:
    """Rung by any thread, waited for by one."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        with _lock:
            _bells.add(self)

    def ring(self) -> None:
        """There may be something to publish, or to stop for."""
        self._rung.set()

    def wait(self, timeout: float) -> bool:
        """Wait until somebody rings, at most `timeout` seconds; whether somebody rang since the last call."""
        if timeout <= 0 and not self._rung.is_set():
            return False  # asked every turn of a loop: no lock for it
        rang = self._rung.wait(timeout)
        self._rung.clear()
        return rang


_lock = threading.Lock()
_bells: weakref.WeakSet[Bell] = weakref.WeakSet()


def ring_all() -> None:
    """Wake every relay of this process."""
    with _lock:
        bells = list(_bells)
    for bell in bells:
        bell.ring()
