"""The order of an undo, against its definition."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from segue.saga.retry import DEFAULT_RETRY
from segue.saga.steps import Step
from segue.saga.undo import UndoPlan


def steps(random: Random) -> list[Step]:
    """Steps that overlap at random; positions of events are unique, as in a history."""
    count = random.randrange(1, 9)
    moments = random.sample(range(100), 2 * count)
    spans = sorted(sorted(moments[2 * n : 2 * n + 2]) for n in range(count))
    return [step(n, issued, settled) for n, (issued, settled) in enumerate(spans)]


def step(number: int, issued: int, settled: int) -> Step:
    return Step(
        name=f"s{number}",
        number=number,
        activity="a.b",
        input=msgspec.Raw(b"1"),
        compensate="a.c",
        readonly=False,
        optional=False,
        park=False,
        timeout=1,
        retry=DEFAULT_RETRY,
        after_pivot=False,
        issued=issued,
        settled=settled,
        status="succeeded",
    )


def by_definition(every: list[Step]) -> list[str]:
    """All whose undo has not begun and after whose end no step was issued that is still to be undone."""
    active = [s for s in every if s.undo.status in ("none", "issued", "waiting")]
    return [
        s.name
        for s in active
        if s.undo.status == "none" and all(other is s or other.issued < s.settled for other in active)
    ]


def put(step: Step, status: Any) -> None:
    step.undo = replace(step.undo, status=status)


@pytest.mark.parametrize("seed", range(200))
def test_a_step_is_undone_once_everything_issued_after_its_end_is(seed: int) -> None:
    random = Random(seed)
    every = steps(random)
    plan = UndoPlan(every, in_order=True)
    out: list[Step] = []
    undone = 0
    while undone < len(every):
        expected = by_definition(every)
        assert [s.name for s in plan.next()] == expected
        for s in every:
            if s.name in expected:
                put(s, "issued")
                out.append(s)
        put(out.pop(random.randrange(len(out))), random.choice(["done", "deferred", "given_up"]))
        undone += 1
    assert plan.next() == []


def test_abandoned_steps_are_undone_at_once() -> None:
    first, second = step(0, 1, 2), step(1, 3, 4)
    assert UndoPlan([second, first], in_order=False).next() == [first, second]
