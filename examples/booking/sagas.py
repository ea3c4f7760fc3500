"""A trip in which the booking may fail by itself: it is undone, and the saga goes on without it."""

from __future__ import annotations

from dataclasses import dataclass

from segue.contract import Activity
from segue.saga import Saga, SagaFailed, saga


@dataclass(frozen=True)
class Trip:
    """Who goes where."""

    id: str
    traveller: str


@dataclass(frozen=True)
class Booked:
    """What was booked: nothing of it is empty, or all of it."""

    flight: str = ""
    hotel: str = ""


deposit = Activity("payments.deposit", Trip, str)
give_back = deposit.undo("payments.give_back")
fly = Activity("flights.book", Trip, str)
unfly = fly.undo("flights.cancel")
stay = Activity("hotels.book", Trip, str)
unstay = stay.undo("hotels.cancel")
advise = Activity("mail.advise", Trip)


@saga("trip")
async def trip_saga(s: Saga, trip: Trip) -> Booked:
    """Flight and hotel belong together: without the one the other is given back, and the traveller is told."""
    await s.call(deposit, trip, compensate=give_back)
    booked = Booked()
    async with s.scope("booking") as booking:
        flight = await s.call(fly, trip, compensate=unfly)
        hotel = await s.call(stay, trip, compensate=unstay)
        if flight == hotel:
            raise SagaFailed("mixed_up", "one number for both")
        booked = Booked(flight, hotel)
    if booking.undone:
        await s.undo(deposit)
        await s.call(advise, trip)
        return s.compensated(booked)
    return booked
