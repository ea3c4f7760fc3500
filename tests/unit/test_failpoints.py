"""Failpoints: off by default, named, and placed where they are said to be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from segue import failpoints
from segue.errors import ConfigError, Unavailable
from segue.failpoints import POINTS, hit, parse

ROOT = Path(__file__).resolve().parents[2]


def test_a_failpoint_that_nobody_planned_does_nothing() -> None:
    hit("batch.before_commit")


def test_the_plan_names_place_action_and_number_of_the_hit() -> None:
    plan = parse("batch.before_commit=raise@2")["batch.before_commit"]
    assert (plan.action, plan.at) == ("raise", 2)


def test_a_planned_failure_is_raised_at_its_hit_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_plans", parse("batch.before_commit=raise@2"))
    hit("batch.before_commit")
    with pytest.raises(Unavailable, match=r"batch\.before_commit"):
        hit("batch.before_commit")
    hit("batch.before_commit")


@pytest.mark.parametrize("text", ["nowhere=kill@1", "batch.begun=explode@1", "batch.begun=kill@x"])
def test_a_plan_that_makes_no_sense_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="SEGUE_FAILPOINTS"):
        parse(text)


def test_a_process_with_a_plan_kills_itself() -> None:
    program = "from segue.failpoints import hit; hit('batch.begun'); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"SEGUE_FAILPOINTS": "batch.begun=kill@1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, b"")


def test_every_failpoint_is_somewhere_in_the_code_and_every_one_in_the_code_is_listed() -> None:
    placed: set[str] = set()
    for root in ("topics", "outbox", "activities", "coordinator"):
        for path in (ROOT / root).rglob("*.py"):
            placed.update(re.findall(r'\bhit\("([a-z_.]+)"\)', path.read_text()))
    assert placed == set(POINTS)
