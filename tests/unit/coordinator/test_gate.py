from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from segue.coordinator.gate import DrainGate
from segue.coordinator.store import Store
from segue.observe import SILENT
from segue.topics.broker import Consumer, Partition

T0 = datetime(2026, 1, 1, tzinfo=UTC)
P0, P1 = Partition("t.replies", 0), Partition("t.requests", 0)


class Estate:
    """A store and a consumer, as far as the gate asks them: a clock, stored offsets and ends that a test moves."""

    def __init__(self) -> None:
        self.time = T0
        self.stored = {P0: 0, P1: 0}
        self.ends = {P0: 0, P1: 0}
        self.drained: dict[Partition, datetime] = {}
        self.gate = DrainGate(cast("Store", self), cast("Consumer", self), "t", ["t.replies", "t.requests"], SILENT)

    def now(self) -> datetime:
        return self.time

    def end_offsets(self, topics: Sequence[str]) -> Mapping[Partition, int]:
        return dict(self.ends)

    def note_drained(self, coordinator: str, noted_at: datetime, ends: Mapping[Partition, int]) -> datetime | None:
        for partition, end in ends.items():
            if self.stored[partition] >= end:
                self.drained[partition] = max(noted_at, self.drained.get(partition, noted_at))
        times = [self.drained.get(partition) for partition in ends]
        return None if None in times else min(time for time in times if time is not None)

    def second(self, written: int, read: int) -> None:
        """A second in which records are written to both partitions, and read."""
        self.time += timedelta(seconds=1)
        for partition in (P0, P1):
            self.ends[partition] += written
            self.stored[partition] = min(self.ends[partition], self.stored[partition] + read)


def test_the_gate_opens_to_now_where_all_has_been_read() -> None:
    estate = Estate()
    assert estate.gate.open_to(T0) == T0


def test_a_deadline_fires_under_a_load_whose_end_is_never_reached() -> None:
    estate = Estate()
    estate.second(written=200, read=0)
    wanted = estate.time
    opened = []
    for _ in range(10):
        opened.append(estate.gate.open_to(wanted))
        estate.second(written=100, read=100)
        assert estate.stored[P0] < estate.ends[P0], "there is always something left to read"
    assert any(time is not None and time >= wanted for time in opened)


def test_the_gate_stays_shut_while_what_was_written_before_the_deadline_is_unread() -> None:
    estate = Estate()
    estate.second(written=500, read=0)
    wanted = estate.time
    for _ in range(4):
        opened = estate.gate.open_to(wanted)
        assert opened is None or opened < wanted, f"only {estate.stored[P0]} of 500 are read"
        estate.second(written=100, read=100)
    assert estate.stored[P0] < 500


def test_one_partition_that_nobody_reads_keeps_the_gate_shut() -> None:
    estate = Estate()
    estate.second(written=10, read=0)
    wanted = estate.time
    for _ in range(5):
        assert estate.gate.open_to(wanted) is None
        estate.second(written=10, read=0)
        estate.stored[P0] = estate.ends[P0]


def test_ends_of_a_topic_that_was_created_again_are_not_waited_for() -> None:
    estate = Estate()
    estate.second(written=1000, read=0)
    wanted = estate.time
    assert estate.gate.open_to(wanted) is None
    estate.ends = {P0: 200, P1: 200}
    opened = []
    for _ in range(10):
        opened.append(estate.gate.open_to(wanted))
        estate.second(written=50, read=50)
    assert any(time is not None and time >= wanted for time in opened)
