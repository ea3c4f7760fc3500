"""Coordinators of two names on one database: each drives its own sagas, and no id is taken twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.coordinator.memory import MemoryStore
from segue.coordinator.service import Coordinator
from segue.ids import derive
from segue.saga import Saga, saga
from segue.saga.definition import Registry
from segue.topics import Converter, TopicNames
from segue.topics.envelope import Request
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock
from tests.unit.saga.kit import Order, charge, payout, refund

OTHERS = TopicNames(coordinator="other")


@saga("order", deadline=timedelta(minutes=10))
async def order(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund)


@saga("order")
async def same_name_other_code(s: Saga, order: Order) -> None:
    await s.call(payout, order)


@pytest.fixture
def estate() -> Iterator[Estate]:
    clock = ManualClock()
    e = Estate(MemoryStore(clock.now), [order], clock)
    for topic in (OTHERS.replies, OTHERS.requests, OTHERS.dlq):
        e.broker.create_topic(topic)
    yield e
    e.close()


def another(e: Estate) -> Coordinator:
    consumer, producer = e.broker.consumer(OTHERS.coordinator), e.broker.producer()
    return Coordinator(
        OTHERS,
        Registry([same_name_other_code]),
        e.store,
        consumer,
        producer,
        clock=e.clock,
        observer=e.observer,
        options=e.options,
    )


def ask_other(e: Estate, action: Any, saga_id: str, name: str, body: Any = None) -> None:
    request = Request(id=derive("other", saga_id, action, name), action=action, saga_id=saga_id, name=name)
    e.send(OTHERS.requests, saga_id, Converter().to_bytes(body), request.headers())


def letters(e: Estate) -> list[tuple[str, str]]:
    assert isinstance(e.store, MemoryStore)
    return [(letter.coordinator, letter.reason) for letter in e.store.tables.letters.values()]


def test_a_coordinator_lets_no_alarm_of_anothers_saga_fire(estate: Estate) -> None:
    e = estate
    e.silent.add("payments.charge")
    e.start(order, Order(), "o-1")
    e.run()
    e.coordinators[0].close()

    # Its own is down, with answers that nobody has read; the other one has the same type under the same name.
    e.coordinators[:] = [another(e)]
    for _ in range(12):
        e.pass_time(timedelta(minutes=1))

    assert e.saga("o-1").revision == 1
    assert e.saga("o-1").coordinator == NAMES.coordinator
    assert e.saga("o-1").attention == "none"


def test_other_code_under_the_same_name_at_another_coordinator_is_no_alert(
    estate: Estate, caplog: pytest.LogCaptureFixture
) -> None:
    def alerts() -> int:
        return caplog.text.count("definition.alert")

    e = estate
    e.run()
    e.coordinators.append(another(e))
    e.run()
    e.coordinators[:] = [e.coordinator(), another(e)]
    e.run()
    assert alerts() == 0

    e.coordinators[:] = [e.coordinator([same_name_other_code])]
    e.run()
    assert alerts() == 1


def test_an_id_that_another_coordinators_saga_has_is_a_conflict_and_says_whose_it_is(estate: Estate) -> None:
    e = estate
    e.start(order, Order(), "o-1")
    e.run()
    before = e.saga("o-1")
    e.coordinators.append(another(e))
    ask_other(e, "start", "o-1", "order", Order())
    ask_other(e, "signal", "o-1", "anything")
    ask_other(e, "cancel", "o-1", "all")
    e.run()

    assert e.saga("o-1") == before
    assert sorted(letters(e)) == [
        ("other", "another_coordinator"),
        ("other", "another_coordinator"),
        ("other", "start_conflict"),
    ]
    assert isinstance(e.store, MemoryStore)
    messages = {letter.error_message for letter in e.store.tables.letters.values()}
    assert messages == {"o-1 is a saga of coordinator 'test', which shares this database: ids are unique in it"}


def test_what_a_person_asks_for_is_left_to_the_coordinator_whose_saga_it_is(estate: Estate) -> None:
    e = estate
    e.silent.add("payments.charge")
    e.start(order, Order(), "o-1")
    e.run()
    own = e.coordinators[0]
    e.coordinators[:] = [another(e)]
    e.ask("cancel", "o-1")
    for _ in range(3):
        e.run()
    assert e.saga("o-1").status == "running"

    e.coordinators[:] = [own]
    e.silent.clear()
    e.run()
    assert e.saga("o-1").status in ("compensating", "cancelled")


def test_a_signal_that_was_parked_by_one_is_not_handed_to_the_saga_of_another(estate: Estate) -> None:
    e = estate
    e.coordinators.append(another(e))
    ask_other(e, "signal", "o-1", "anything")
    e.run()
    e.start(order, Order(), "o-1")
    e.run()
    e.pass_time(timedelta(seconds=5))

    assert isinstance(e.store, MemoryStore)
    assert [(row.state, row.reason) for row in e.store.tables.letters.values()] == [("parked", "early")]


def test_sagas_that_a_version_before_wrote_get_their_coordinator_from_their_history(estate: Estate) -> None:
    e = estate
    e.silent.add("payments.charge")
    e.start(order, Order(), "o-1")
    e.run()
    assert isinstance(e.store, MemoryStore)
    sagas = e.store.tables.sagas
    sagas["o-1"] = msgspec.structs.replace(sagas["o-1"], coordinator="")
    e.coordinators[0].close()

    e.coordinators[:] = [another(e)]
    e.run()

    assert sagas["o-1"].coordinator == NAMES.coordinator
    e.coordinators[:] = [e.coordinator()]
    e.silent.clear()
    e.pass_time(timedelta(minutes=20))
    assert sagas["o-1"].status == "compensated"


def test_an_old_dead_letter_of_nobody_is_folded_by_whoever_has_its_saga(estate: Estate) -> None:
    e = estate
    e.silent.add("payments.charge")
    e.request("cancel", "o-1", "all")
    e.run()
    assert isinstance(e.store, MemoryStore)
    [(number, letter)] = e.store.tables.letters.items()
    e.store.tables.letters[number] = replace(letter, coordinator="")

    e.start(order, Order(), "o-1")
    e.run()
    e.pass_time(timedelta(seconds=5))

    assert e.saga("o-1").error_code == "cancelled"
