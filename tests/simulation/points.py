"""What a run must have come to: a simulation in which nothing went wrong has shown nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.simulation.world import FAULTS

#: Faults besides those at boundaries.
EVENTS = (
    "process.kill", "group.zombie", "group.rebalance", "topic.truncated", "topic.recreated", "record.redriven",
    "poison", "clock.jump", "clock.database", "person.acts", "client.duplicate", "service.refuse", "service.slow",
    "service.later", "service.broken", "service.refuse_undo", "service.silent", "deploy.both",
    "deploy.one", "deploy.broken", "deploy.worker", "clock.database_back", "service.beats",
    "service.answers_later", "service.never_answers", "db.hangs",
)  # fmt: skip
#: Places that every run of some length comes to.
SOMETIMES = (
    "late_success", "undo_before_do", "duplicate_reply", "fenced", "ambiguous_commit", "in_doubt", "deferred", "parked",
    "blocked", "redriven_letter", "unknown", "gate_shut", "relay_published", "resent", "replayed", "late_reply",
    "held", "progress", "details_kept", "answered_later", "answered_twice", "answered_in_vain",
    "time_given_back", "deadline_renewed", "continued", "run_ending", "commit_unanswered", "side_by_side",
    "lacking", "start_kept",
)  # fmt: skip
#: What one schedule in a thousand comes to: that it is missing tells nothing of runs shorter than `LONG` schedules.
RARELY = ("parked_after_mismatch", "record.damaged")
LONG = 20_000
ENDINGS = ("completed", "compensated", "failed", "cancelled")
#: Each ending's least share of all sagas.
LEAST_SHARE = 0.05


def missing(
    schedules: int, faults: Mapping[str, int], points: Mapping[str, int], endings: Mapping[str, int]
) -> list[str]:
    """What a run has not come to; empty for one that counts."""
    found = [f"fault {kind} never happened" for kind in (*FAULTS, *EVENTS) if not faults.get(kind)]
    found += [f"{point} was never reached" for point in SOMETIMES if not points.get(point)]
    if schedules >= LONG:
        found += [f"{what} never happened" for what in RARELY if not points.get(what) and not faults.get(what)]
    total = sum(endings.values())
    found += [
        f"{status} is {100 * endings.get(status, 0) / max(1, total):.1f} % of all endings"
        for status in ENDINGS
        if endings.get(status, 0) < LEAST_SHARE * total
    ]
    return found


def gathered(points: Counter[str]) -> Counter[str]:
    """The product's own counters under the names of this page."""
    found = Counter({point: points[point] for point in (*SOMETIMES, *RARELY) if points[point]})
    found["duplicate_reply"] += points["ignored.duplicate"]
    found["late_reply"] += points["ignored.late"]
    found["fenced"] += points["trouble.fenced"]
    found["relay_published"] += points["relay.published"]
    found["gate_shut"] += points["gate.shut"]
    return +found
