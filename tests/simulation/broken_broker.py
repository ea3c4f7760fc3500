"""Mutants of what the broker and the clocks do: other people's transactions, a clock that jumps ahead."""

from __future__ import annotations

from typing import Any

from segue.coordinator import service
from segue.coordinator.gate import DrainGate
from segue.saga.alarms import Alarms
from segue.topics.memory import MemoryConsumer
from tests.simulation.broker import SimConsumer
from tests.simulation.patching import Patch, mutant


@mutant("the gate takes for the end where somebody else's open transaction begins", focus="strangers")
def gate_stable(patch: Patch) -> None:
    patch(SimConsumer, "end_offsets", MemoryConsumer.stable_offsets)


@mutant("time is whatever the database's clock shows: one that jumps ahead lets all deadlines fire", focus="leaps")
def clock_leap(patch: Patch) -> None:
    patch(DrainGate, "time", lambda self, now: now)


@mutant("deadlines fire though the answer may have been in a batch that was stepped over", focus="damage")
def answers_lost(patch: Patch) -> None:
    patch(Alarms, "ask_again", lambda self, lost, until: None)


@mutant("a batch that nobody can read is stepped over without a dead letter", focus="damage")
def skipped_unsaid(patch: Patch) -> None:
    def step_over(work: Any, batch: Any, coordinator: str, move: Any, unreadable: Any) -> None:
        letters = len(work.changes.dead_letters)
        old(work, batch, coordinator, move, unreadable)
        del work.changes.dead_letters[letters:]

    old = patch(service, "step_over", step_over)
