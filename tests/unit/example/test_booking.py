"""The example of a saga that undoes a part of itself and goes on."""

from __future__ import annotations

from typing import Any

from examples.booking.sagas import Booked, Trip, advise, deposit, fly, give_back, stay, trip_saga, unfly, unstay
from segue.activities import Rejected
from segue.testing import SagaTest, explore, given

TRIP = Trip("t-1", "ann")


def travel(**mocks: Any) -> SagaTest[Trip, Booked]:
    t = SagaTest(trip_saga)
    t.mock(deposit, returns="d-1")
    t.mock(fly, returns="f-1")
    t.mock(stay, **(mocks or {"returns": "h-1"}))
    t.mock(advise, returns=None)
    return t


def test_both_are_booked() -> None:
    t = travel()
    outcome = t.run(TRIP)
    assert (outcome.status, outcome.result, t.compensated) == ("completed", Booked("f-1", "h-1"), [])


def test_without_a_room_flight_and_deposit_are_given_back_and_the_saga_ends_with_a_result() -> None:
    t = travel(raises=Rejected("full"))
    outcome = t.run(TRIP)
    assert (outcome.status, outcome.result) == ("compensated", Booked())
    assert t.compensated == [unfly, give_back]
    assert outcome.error is None


def test_the_conversation_goes_on_after_the_undo_of_a_part() -> None:
    (
        given(trip_saga, TRIP)
        .expect(deposit)
        .reply("d-1")
        .expect(fly)
        .reply("f-1")
        .expect(stay)
        .reject("full")
        .expect_compensation(unfly, give_back)
        .expect(advise)
        .reply(None)
        .expect_compensated()
    )


def test_no_fault_leaves_a_part_of_a_booking_behind() -> None:
    functions: Any = {
        deposit: lambda trip: "d",
        fly: lambda trip: f"f-{trip.id}",
        stay: lambda trip: f"h-{trip.id}",
        advise: lambda trip: None,
    }
    report = explore(trip_saga, input=TRIP, activities=functions, budget=300)
    report.raise_for_violations()
    assert {give_back.name, unfly.name, unstay.name} <= set(report.undos)
