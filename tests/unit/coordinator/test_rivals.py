"""Another coordinator moves sagas and offsets while this one is in the middle of something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from segue.coordinator.memory import MemoryBatch
from segue.coordinator.store import Changes, EventRow
from segue.saga.events import LateReply, encode_events
from segue.topics.broker import Polled
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]


def waiting(estate: Make) -> Estate:
    e = estate(order_saga)
    e.silent.add("stock.reserve")
    e.start(order_saga, Order(), "o-1")
    e.run()
    return e


def moved_by_another(e: Estate) -> None:
    with e.store.batch() as batch:
        row = batch.lock(["o-1"])["o-1"]
        late = LateReply(step="payments.charge", outcome="retry", attempt=1)
        following = EventRow(
            saga_id="o-1", seq=row.revision + 1, type="LateReply", at=row.updated_at, payload=encode_events([late])
        )
        moved = msgspec.structs.replace(row, revision=row.revision + 1)
        batch.write(Changes(updated=[moved], expected={"o-1": row.revision}, events=[following]))


def test_a_saga_that_was_moved_before_its_lock_is_taken_as_it_is_then(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = waiting(estate)
    e.coordinators[0]._cache.clear()
    revision = e.saga("o-1").revision
    asked = MemoryBatch.revisions

    def then_moved(batch: MemoryBatch, ids: Any) -> dict[str, int]:
        found = asked(batch, ids)
        monkeypatch.undo()
        moved_by_another(e)
        return found

    monkeypatch.setattr(MemoryBatch, "revisions", then_moved)
    e.reply(e.commands[-1])
    e.coordinators[0].step()
    assert "trouble.fenced" not in e.observer.counts
    assert e.saga("o-1").revision == revision + 2


def test_records_before_the_position_are_not_applied_once_more(estate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    e = waiting(estate)
    coordinator = e.coordinators[0]
    stood = e.store.offsets(NAMES.coordinator)
    again = e.broker.records(NAMES.requests)
    revision, handled = e.saga("o-1").revision, dict(e.observer.counts)
    polled = Polled(records=again, ended={})
    monkeypatch.setattr(coordinator._consumer, "poll", lambda *_: polled)
    assert not coordinator._consume(0.0)
    assert e.store.offsets(NAMES.coordinator) == stood
    assert e.saga("o-1").revision == revision
    assert e.observer.counts == handled
