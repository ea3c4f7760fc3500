"""Mutants of what the broker and the clocks do: other people's transactions, a clock that jumps ahead."""

from __future__ import annotations

from segue.coordinator.gate import DrainGate
from segue.topics.memory import MemoryConsumer
from tests.simulation.broker import SimConsumer
from tests.simulation.patching import Patch, mutant


@mutant("the gate takes for the end where somebody else's open transaction begins", focus="strangers")
def gate_stable(patch: Patch) -> None:
    patch(SimConsumer, "end_offsets", MemoryConsumer.stable_offsets)


@mutant("time is whatever the database's clock shows: one that jumps ahead lets all deadlines fire", focus="leaps")
def clock_leap(patch: Patch) -> None:
    patch(DrainGate, "time", lambda self, now: now)
