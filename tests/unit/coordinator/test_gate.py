from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from logging import WARNING
from typing import cast

import pytest

from segue.clock import Clock
from segue.coordinator.gate import DrainGate
from segue.coordinator.store import Store, StoredOffset
from segue.observe import Logging
from segue.topics.broker import Consumer, Partition

T0 = datetime(2026, 1, 1, tzinfo=UTC)
P0, P1 = Partition("t.replies", 0), Partition("t.requests", 0)


class Estate:
    """A store and a consumer, as far as the gate asks them: a clock, stored offsets and ends that a test moves."""

    def __init__(self) -> None:
        self.time = T0
        self.seconds = 0.0
        self.stored = {P0: 0, P1: 0}
        self.ends = {P0: 0, P1: 0}
        self.gate = DrainGate(
            cast("Store", self),
            cast("Consumer", self),
            "t",
            ["t.replies", "t.requests"],
            Logging(),
            cast("Clock", self),
        )

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        return dict(self.ends)

    def stable_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        return dict(self.ends)

    def offsets(self, coordinator: str) -> Mapping[Partition, StoredOffset]:
        return {partition: StoredOffset(next=at, topic_id="t-1") for partition, at in self.stored.items()}

    def second(self, written: int, read: int) -> None:
        """A second in which records are written to both partitions, and read."""
        self.pass_time(1)
        for partition in (P0, P1):
            self.ends[partition] += written
            self.stored[partition] = min(self.ends[partition], self.stored[partition] + read)

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds

    def step_back(self, seconds: float) -> None:
        self.time -= timedelta(seconds=seconds)


def test_the_gate_opens_to_now_where_all_has_been_read() -> None:
    estate = Estate()
    assert estate.gate.open_to(T0)
    assert estate.gate.until(T0) == T0
    assert estate.gate.until(T0 + timedelta(seconds=5)) == T0, "of what came later nothing is known"


def test_a_deadline_fires_under_a_load_whose_end_is_never_reached() -> None:
    estate = Estate()
    estate.second(written=200, read=0)
    wanted = estate.time
    opened = []
    for _ in range(10):
        opened.append(estate.gate.open_to(wanted))
        estate.second(written=100, read=100)
        assert estate.stored[P0] < estate.ends[P0], "there is always something left to read"
    assert any(opened)


def test_the_gate_stays_shut_while_what_was_written_before_the_deadline_is_unread() -> None:
    estate = Estate()
    estate.second(written=500, read=0)
    wanted = estate.time
    for _ in range(4):
        assert not estate.gate.open_to(wanted), f"only {estate.stored[P0]} of 500 are read"
        estate.second(written=100, read=100)
    assert estate.stored[P0] < 500


def test_one_partition_that_nobody_reads_keeps_the_gate_shut_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    estate = Estate()
    estate.second(written=10, read=0)
    wanted = estate.time
    for _ in range(40):
        assert not estate.gate.open_to(wanted)
        estate.second(written=10, read=0)
        estate.stored[P0] = estate.ends[P0]
    [alert] = [record.getMessage() for record in caplog.records if record.levelno == WARNING]
    assert alert.endswith("behind=t.requests[0] partitions=2")


def test_ends_of_a_topic_that_was_created_again_are_not_waited_for() -> None:
    estate = Estate()
    estate.second(written=1000, read=0)
    wanted = estate.time
    assert not estate.gate.open_to(wanted)
    estate.ends = {P0: 200, P1: 200}
    opened = []
    for _ in range(10):
        opened.append(estate.gate.open_to(wanted))
        estate.second(written=50, read=50)
    assert any(opened)


def test_a_time_to_which_all_was_read_is_forgotten_when_the_clock_has_stepped_back_behind_it() -> None:
    estate = Estate()
    assert estate.gate.open_to(estate.time)
    estate.step_back(3)
    estate.second(written=1, read=0)
    assert not estate.gate.open_to(estate.time), "an answer lies there unread, and is older by the clock than the note"


def test_what_was_noted_before_the_clock_stepped_back_opens_nothing() -> None:
    estate = Estate()
    estate.second(written=10, read=0)
    assert not estate.gate.open_to(estate.time)
    estate.step_back(3)
    estate.pass_time(4)  # frozen: by now the clock shows a later time than was noted
    estate.stored = {P0: 10, P1: 10}
    estate.ends = {P0: 11, P1: 10}
    assert not estate.gate.open_to(estate.time - timedelta(seconds=2))


def test_a_transaction_after_the_clock_has_stepped_back_fires_nothing() -> None:
    estate = Estate()
    assert estate.gate.open_to(estate.time)
    estate.step_back(3)
    estate.pass_time(4)
    assert estate.gate.until(estate.time) is None
    assert estate.gate.open_to(estate.time)
    assert estate.gate.until(estate.time) == estate.time


def test_a_clock_that_jumps_an_hour_ahead_lets_no_deadline_of_an_hour_fire_at_once() -> None:
    estate = Estate()
    estate.gate.time(estate.time)
    deadline = estate.time + timedelta(hours=1)
    estate.time += timedelta(hours=1)
    assert estate.gate.time(estate.time) < T0 + timedelta(seconds=1)
    assert estate.gate.open_to(T0)
    until = estate.gate.until(estate.time)
    assert until is not None
    assert until < T0 + timedelta(seconds=1)
    estate.pass_time(47 * 60)
    assert estate.gate.time(estate.time) < deadline, "three quarters of its time are over"
    estate.pass_time(60 * 60)
    assert estate.gate.time(estate.time) > deadline


def test_time_catches_up_with_a_clock_that_has_jumped_and_people_are_told(caplog: pytest.LogCaptureFixture) -> None:
    estate = Estate()
    estate.gate.time(estate.time)
    believed = estate.time
    estate.time += timedelta(minutes=10)
    for _ in range(41 * 60):
        estate.pass_time(1)
        believed = estate.gate.time(estate.time)
    assert believed == estate.time
    [alert] = [record.getMessage() for record in caplog.records if record.levelno == WARNING]
    assert alert.startswith("clock.alert ahead=0:09:59"), "once, and with how far"


def test_a_clock_that_runs_evenly_is_believed_however_rarely_it_is_asked() -> None:
    estate = Estate()
    for seconds in (0.1, 0.02, 3600, 0.1, 86_400):
        estate.pass_time(seconds)
        assert estate.gate.time(estate.time) == estate.time
