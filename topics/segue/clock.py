"""The only place that asks the machine for the time, for randomness, or for an id that nobody can guess."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What a loop may know of time. Deadlines of sagas use the database's clock, never this one."""

    def now(self) -> datetime:
        """Wall clock, UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread; only drivers of loops call it."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970-01-01T00:00Z; exact, unlike `timestamp()`."""
    return (moment - EPOCH) // _MICROSECOND


#: Nearly all moments of one batch are the same few: its own, and the deadlines that follow from it.
@lru_cache(maxsize=1024)
def from_micros(micros: int) -> datetime:
    """The inverse of `to_micros`."""
    return EPOCH + timedelta(microseconds=micros)


def fresh_id() -> str:
    """A random uuid4, for things that have no identity to derive one from (a client's request, a lease holder)."""
    return str(uuid.uuid4())


def spread(seconds: float) -> float:
    """`seconds` ± 10 %, so that processes which failed together do not come back together."""
    return seconds * random.uniform(0.9, 1.1)
