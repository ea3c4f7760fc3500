"""A batch that nobody can read: noticed, stepped over once an hour, told about; no deadline fires over lost answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from segue.coordinator.memory import MemoryStore
from segue.topics.broker import Outgoing, Partition, Record, Unreadable
from segue.topics.obstacles import LOOK_EVERY, REASON, TRIES, Obstacles
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.coordinator.test_service import letters
from tests.unit.saga.kit import OUTPUTS, Order
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]


def lose_answers(estate: Estate, step: str) -> list[Record]:
    """The next answer of this activity can't be read by anybody, and something readable follows it."""
    lost: list[Record] = []

    def reply(command: Any, outcome: Any = "success", body: Any = None, **more: Any) -> None:
        answer(command, outcome, body, **more)
        if command.activity == step and not lost:
            newest = max(
                (r for r in estate.broker.records(NAMES.replies) if r.key == command.saga_id.encode()),
                key=lambda record: record.offset,
            )
            estate.broker.damage(newest)
            lost.append(newest)
            estate.broker.append(Outgoing(topic=NAMES.replies, key=command.saga_id.encode(), value=b"{}"))

    answer = estate.reply
    setattr(estate, "reply", reply)  # noqa: B010 - in place of a method
    return lost


def look_closely(estate: Estate, times: int = TRIES + 1) -> None:
    """So many turns in which a closer look is due."""
    for _ in range(times):
        for coordinator in estate.coordinators:
            coordinator.step()
        estate.clock.advance(timedelta(seconds=LOOK_EVERY))


def test_what_nobody_can_read_is_stepped_over_and_recorded_without_bytes(
    estate: Make, caplog: pytest.LogCaptureFixture
) -> None:
    made = estate(order_saga)
    lost = lose_answers(made, "payments.charge")
    made.start(order_saga, Order(), "o-1")
    made.run()
    look_closely(made)
    made.run(200)
    [record] = lost
    [letter] = [one for one in letters(made) if one.reason == REASON]
    assert (letter.record.topic, letter.record.partition, letter.record.offset) == (*record.source, record.offset)
    assert (letter.record.key, letter.record.value, letter.record.headers) == (None, None, ())
    assert made.store.offsets(NAMES.coordinator)[record.source].next > record.offset + 1
    assert any(message.startswith("skip.alert") for message in caplog.messages)


def test_no_step_is_undone_because_its_answer_was_in_a_batch_that_was_stepped_over(estate: Make) -> None:
    made = estate(order_saga)
    made.silent.add("payments.charge")
    made.start(order_saga, Order(), "o-1")
    made.run()
    lost = lose_answers(made, "payments.charge")
    for _ in range(49):
        made.pass_time(timedelta(seconds=5))  # its deadline is what comes next
    # It answers at the last moment, and that is what nobody can read; by the time it is stepped over, all is overdue.
    made.silent.clear()
    made.reply(made.commands[-1], body=OUTPUTS["payments.charge"])
    assert len(lost) == 1
    sent = made.sent().count("payments.charge")
    look_closely(made, TRIES)
    made.run(200)
    row = made.saga("o-1")
    assert (row.status, row.attention) == ("completed", "none")
    assert not [step for step in made.sent() if step.startswith("undo")]
    assert made.sent().count("payments.charge") > sent, "asked again, under the same id"


def test_a_second_one_within_an_hour_stands_and_is_alerted(estate: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = estate(order_saga)
    made.run()
    partition = Partition(NAMES.replies, 0)
    damaged: list[Record] = []
    while len(damaged) < 2:
        record = made.broker.append(Outgoing(topic=NAMES.replies, value=b"?"))
        if record.source == partition:
            made.broker.damage(record)
            damaged.append(record)
            for _ in range(4):
                made.broker.append(Outgoing(topic=NAMES.replies, value=b"{}"))
    look_closely(made, 12)
    assert made.store.offsets(NAMES.coordinator)[partition].next == damaged[1].offset
    [alert] = [message for message in caplog.messages if message.startswith("partition.alert")]
    assert "within the last hour" in alert
    made.clock.advance(timedelta(hours=1))
    look_closely(made)
    assert made.store.offsets(NAMES.coordinator)[partition].next > damaged[1].offset


def test_a_client_that_can_read_nothing_steps_over_nothing(estate: Make, caplog: pytest.LogCaptureFixture) -> None:
    made = estate(order_saga)
    made.run()
    for _ in range(8):
        made.broker.damage(made.broker.append(Outgoing(topic=NAMES.replies, value=b"?")))
    before = made.store.offsets(NAMES.coordinator)
    look_closely(made, 20)
    assert made.store.offsets(NAMES.coordinator) == before
    assert len([message for message in caplog.messages if message.startswith("partition.alert")]) == 2
    if isinstance(made.store, MemoryStore):
        assert made.store.tables.standing, "`segue verify` tells"


def test_a_trouble_that_passes_is_no_obstacle() -> None:
    class Consumer:
        def readable_from(self, partition: Partition, offset: int) -> int | None:
            raise AssertionError("nobody looks closely at what failed once")

    class Clock:
        def monotonic(self) -> float:
            return 0.0

    made = Obstacles(Consumer(), Clock(), None)  # type: ignore[arg-type]
    partition = Partition("t", 0)
    for n in range(10):
        assert not made.met(partition, Unreadable(offset=n, problem="?"))
