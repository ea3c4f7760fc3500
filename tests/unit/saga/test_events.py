"""What the history holds: as little as tells it."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import msgspec
from msgspec.structs import replace

from segue.saga import events as e
from segue.saga.effects import Moved
from segue.saga.fold import FOLD, fold
from segue.saga.transition import start
from segue.topics.converter import Converter
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga


def test_there_is_a_fold_of_every_event() -> None:
    assert set(FOLD) == set(get_args(e.AnyEvent))


def test_what_is_usual_is_not_written_down() -> None:
    converter = Converter()
    data = converter.to_bytes(Order(), Order)
    _, moved = start("order-1", order_saga, converter, coordinator="segue", input=data, now=1)
    assert isinstance(moved, Moved)

    written = msgspec.json.decode(e.encode_events(moved.events))
    kinds = {event["e"]: event for event in written}
    assert order_saga.compensation_timeout == timedelta(minutes=30)
    assert "compensation_timeout" not in kinds["started"]
    assert "timeout" not in kinds["stepscheduled"]
    assert set(kinds["commandsent"]) == {"e", "step", "keyed"}
    assert e.decode_events(e.encode_events(moved.events)) == list(moved.events)


def test_a_history_that_names_the_usual_moments_and_activities_folds_to_the_same_state() -> None:
    converter = Converter()
    data = converter.to_bytes(Order(), Order)
    instance, moved = start("order-1", order_saga, converter, coordinator="segue", input=data, now=1)
    [step] = instance.state.steps.values()
    assert (step.due, step.resend) == (1 + 300_000_000, 1 + 10_000_000)

    older: list[e.AnyEvent] = []
    for event in moved.events:
        if isinstance(event, e.StepScheduled):
            older.append(replace(event, activity=event.step))
        elif isinstance(event, e.CommandSent):
            older.append(replace(event, due=step.due, resend=step.resend))
        else:
            older.append(event)

    assert older != moved.events
    assert fold("order-1", [(1, e.encode_events(older))]) == fold("order-1", [(1, e.encode_events(moved.events))])
