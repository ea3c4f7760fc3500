"""What a run proves nothing without: every kind of fault struck, sagas were in flight, some of each ending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from examples.driver.violations import Violation
from tests.chaos.checker import Row, Story
from tests.chaos.faults import KINDS

#: Endings of which there must be some.
ENDINGS = ("completed", "compensated", "failed")
#: Of the kills of each kind, the part that must have met sagas in flight. Not all of them need: most sagas take less
#: than a tenth of a second where nothing is broken, and the faults are drawn without a look at the load.
MET = 0.25
#: Kills of a kind from which that part tells anything about the kind by itself; rarer ones are judged together.
TELLING = 4


def struck(story: Story) -> Counter[str]:
    """Faults that really happened, by kind."""
    return Counter(line["kind"] for line in story.faults if line["phase"] == "end" and line["shown"] is not None)


def vacuous(story: Story, rows: Mapping[str, Row]) -> list[Violation]:
    """Empty if the run was worth its while."""
    return [*_kinds(story), *_in_flight(story, rows), *_endings(rows)]


def _kinds(story: Story) -> Iterator[Violation]:
    found = struck(story)
    for kind in sorted(KINDS):
        if not found[kind]:
            tried = sum(line["kind"] == kind for line in story.faults if line["phase"] == "begin")
            yield Violation(rule="every kind of fault strikes", subject=kind, found=f"tried {tried} times")


def _in_flight(story: Story, rows: Mapping[str, Row]) -> Iterator[Violation]:
    kills: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for line in story.faults:
        if line["phase"] == "begin" and KINDS[line["kind"]].kills:
            kills[line["kind"]] += 1
            met[line["kind"]] += any(_under_way(row, line["at"]) for row in rows.values())
    for kind in [kind for kind, number in kills.items() if number < TELLING]:
        kills["rare kinds"] += kills.pop(kind)
        met["rare kinds"] += met.pop(kind)
    for kind, number in kills.items():
        if met[kind] < MET * number:
            found = f"at {met[kind]} of {number}"
            yield Violation(rule="sagas are in flight when something is killed", subject=kind, found=found)


def _under_way(row: Row, at: float) -> bool:
    return row.started_at.timestamp() <= at and (row.ended_at is None or row.ended_at.timestamp() >= at)


def _endings(rows: Mapping[str, Row]) -> Iterator[Violation]:
    endings = Counter(row.status for row in rows.values())
    for ending in ENDINGS:
        if not endings[ending]:
            yield Violation(rule="sagas end in every way", subject=ending, found=str(dict(endings)))
