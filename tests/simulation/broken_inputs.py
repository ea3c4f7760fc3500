"""Mutants of the comparison of what the code gives to its steps with what the history has."""

from __future__ import annotations

from typing import Any

import segue.saga.replay as replay
from tests.simulation.patching import Patch, mutant

Replay: Any = replay._Replay


@mutant("replay compares the names of steps, and not their inputs", focus="inputs")
def inputs_not_compared(patch: Patch) -> None:
    patch(Replay, "compare_values", lambda self, asked, recorded: None)
