"""What `segue bench` runs: four trivial steps in a row, three of them with a compensation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from segue.contract import Activity
from segue.saga import Saga, saga

#: The service that all commands go to; `segue bench` plays it.
SERVICE = "steps"
STEPS = ("first", "second", "third", "fourth")
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Load:
    """Input of the saga and of each step: a number, and a text as long as a business message."""

    number: int
    text: str


first, second, third, fourth = (Activity(f"{SERVICE}.{step}", Load, bool) for step in STEPS)


@saga("four-steps")
async def four_steps(s: Saga, load: Load) -> bool:
    """Each step waits for the answer to the one before."""
    await s.call(first, load, compensate=first.undo(f"{SERVICE}.undo-first"), timeout=_TIMEOUT)
    await s.call(second, load, compensate=second.undo(f"{SERVICE}.undo-second"), timeout=_TIMEOUT)
    await s.call(third, load, compensate=third.undo(f"{SERVICE}.undo-third"), timeout=_TIMEOUT)
    return await s.call(fourth, load, timeout=_TIMEOUT)
