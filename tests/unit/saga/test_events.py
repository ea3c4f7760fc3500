"""What the history holds: as little as tells it."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from segue.saga import events as e
from segue.saga.effects import Moved
from segue.saga.transition import start
from segue.topics.converter import Converter
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga


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
    assert "attempt" not in kinds["commandsent"]
    assert e.decode_events(e.encode_events(moved.events)) == list(moved.events)
