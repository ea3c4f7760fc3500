"""The same four services with a rejection by the fourth and three compensations."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.report import Row
from benchmarks.scenarios.services import IN_FLIGHT, best_of


def run(bench: Bench) -> list[Row]:
    """Sagas undone a second."""
    what = "sagas rejected at step 4 and undone, four real services"
    return best_of(bench, "failures", what, IN_FLIGHT, unlucky=True)
