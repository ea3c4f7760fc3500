"""So many at a time, first come, first served: what `s.map` waits in.

Not asyncio.Semaphore: each of its releases looks through all who wait, cancelled ones too, so that throwing away a map
of n took n² steps; and whom it wakes first has changed from one version of Python to the next.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """An async context manager that at most `count` are within."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._give()  # it was given a slot and cancelled in the same moment
            raise

    async def __aexit__(self, *_: object) -> None:
        self._give()

    def _give(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
