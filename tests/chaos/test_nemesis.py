"""The nemesis plays every kind of fault, strikes nothing twice at a time, and mends whatever it has broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos import nemesis
from tests.chaos.faults import Course, Kind
from tests.chaos.history import History, Line, read
from tests.chaos.nemesis import OVERTIME, Nemesis


@dataclass
class Stage:
    """Time that passes only where the nemesis lets it, and a fleet that is told of nothing."""

    now: float = 1000.0
    dead: set[str] = field(default_factory=set)
    struck: list[str] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    most: int = 0

    @property
    def fleet(self) -> Stage:
        return self

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def is_whole(self, target: str) -> bool:
        return target not in self.dead

    def kind(self, *targets: str, seconds: float = 3.0, shows_at: int = 1) -> Kind:
        tries = 0

        def do(world: Any, target: str, random: Random) -> Course:
            nonlocal tries
            tries += 1
            mine = tries
            self.struck.append(target)
            for part in target.split("+"):
                self.broken[part] += 1
            self.most = max(self.most, *self.broken.values())
            yield seconds
            for part in target.split("+"):
                self.broken[part] -= 1
            return "shown" if mine >= shows_at else None

        return Kind(do=do, targets=targets)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(nemesis, "time", stage)
    return stage


def play(
    stage: Stage, kinds: dict[str, Kind], path: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 1
) -> list[Line]:
    monkeypatch.setattr(nemesis, "KINDS", kinds)
    history = History(path / "history")
    Nemesis(stage, history, Random(seed), 180.0, sorted(kinds)).run()  # type: ignore[arg-type]
    history.close()
    return list(read(history.path))


def begun(lines: list[Line]) -> list[str]:
    return [line["kind"] for line in lines if line["phase"] == "begin"]


def test_every_kind_strikes_once_before_any_strikes_twice(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {f"kind-{n}": stage.kind(f"target-{n}") for n in range(16)}
    lines = play(stage, kinds, tmp_path, monkeypatch)
    assert set(begun(lines)[:16]) == set(kinds)
    assert len(begun(lines)) > 16, "and goes on till time is over"


def test_the_same_seed_gives_the_same_order(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    for n in range(2):
        kinds = {f"kind-{n}": stage.kind("a", "b", "c") for n in range(8)}
        (tmp_path / str(n)).mkdir()
        lines = play(stage, kinds, tmp_path / str(n), monkeypatch, seed=9)
        orders.append([(line["kind"], line["target"]) for line in lines])
    assert orders[0] == orders[1]


def test_faults_overlap_but_nothing_is_struck_by_two_at_a_time(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {f"kind-{n}": stage.kind("a", "b+c", "c+d", seconds=30.0) for n in range(6)}
    play(stage, kinds, tmp_path, monkeypatch)
    assert set(stage.struck) == {"a", "b+c", "c+d"}
    assert stage.most == 1


def test_a_process_that_does_not_run_is_not_struck(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.dead.add("a")
    play(stage, {"kill": stage.kind("a", "b")}, tmp_path, monkeypatch)
    assert set(stage.struck) == {"b"}


def test_everything_is_mended_when_time_is_over(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = play(stage, {"slow": stage.kind("a", "b", seconds=50.0)}, tmp_path, monkeypatch)
    assert Counter(line["phase"] for line in lines)["end"] == len(begun(lines))
    assert not +stage.broken


def test_a_kind_that_did_not_show_is_tried_again_beyond_the_time(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"shy": stage.kind("a", seconds=60.0, shows_at=4), "bold": stage.kind("b")}
    lines = play(stage, kinds, tmp_path, monkeypatch)
    assert [line["shown"] for line in lines if line["kind"] == "shy" and line["phase"] == "end"][-1] == "shown"
    assert stage.now > 1000.0 + 180.0


def test_a_kind_that_never_shows_does_not_keep_the_run_for_ever(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(stage, {"never": stage.kind("a", shows_at=10_000)}, tmp_path, monkeypatch)
    assert stage.now < 1000.0 + 180.0 + OVERTIME + 15.0
