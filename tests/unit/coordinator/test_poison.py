"""One record or one saga that can't be processed never hurts the others, never stops a partition, never disappears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from segue.coordinator import work
from segue.errors import RejectedWrite
from segue.saga.inputs import Reply, Wake
from tests.unit.coordinator.kit import Estate
from tests.unit.coordinator.test_service import letters, reasons
from tests.unit.saga.kit import Order
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]


class Picky:
    """A store that refuses every value of one saga for good, as a database does with SQLSTATE 22."""

    def __init__(self, store: Any, refused: str) -> None:
        self._store, self._refused = store, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def batch(self) -> Iterator[Any]:
        with self._store.batch() as batch:
            write = batch.write

            def picky(changes: Any) -> Any:
                if any(event.saga_id == self._refused for event in changes.events):
                    raise RejectedWrite("invalid byte sequence")
                return write(changes)

            batch.write = picky
            yield batch


def test_a_batch_that_the_database_refuses_is_halved_until_only_the_bad_record_is_left(
    estate: Make, store: Any
) -> None:
    e = estate(order_saga)
    e.coordinators[0].close()
    e.coordinators = [e.coordinator(store=Picky(store, "o-7"))]
    for n in range(16):
        e.start(order_saga, Order(), f"o-{n}")
    e.run(200)
    assert [e.saga(f"o-{n}").status for n in range(16) if n != 7] == ["completed"] * 15
    assert reasons(e) == ["rejected_write"]
    [letter] = letters(e)
    assert (letter.saga_id, letter.state) == ("o-7", "dead")
    assert e.observer.counts["batch.bisected"] >= 3


def failing(monkeypatch: pytest.MonkeyPatch, kind: type[Any], saga_id: str) -> None:
    advance: Callable[..., Any] = getattr(work, "advance")  # noqa: B009 - not an export of that module

    def buggy(instance: Any, happened: Any, now: int, **more: Any) -> Any:
        if isinstance(happened, kind) and instance.state.id == saga_id:
            raise ZeroDivisionError("a bug of our own")
        return advance(instance, happened, now, **more)

    monkeypatch.setattr(work, "advance", buggy)


def test_a_reply_that_our_own_bug_can_not_apply_is_kept_and_blocks_only_its_saga(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    failing(monkeypatch, Reply, "o-1")
    for n in range(3):
        e.start(order_saga, Order(), f"o-{n}")
    e.run(200)
    assert [e.saga(f"o-{n}").status for n in (0, 2)] == ["completed", "completed"]
    assert (e.saga("o-1").attention, e.saga("o-1").error_code) == ("blocked", "internal_error")
    [letter] = letters(e)
    assert (letter.state, letter.saga_id) == ("received", "o-1")
    monkeypatch.undo()
    e.ask("replay", letter=letter.id)
    e.run(200)
    assert e.saga("o-1").status == "completed"


def test_a_saga_that_can_not_be_woken_is_blocked_and_the_others_wake(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    e.silent.add("payments.charge")
    for n in range(3):
        e.start(order_saga, Order(), f"o-{n}")
    e.run()
    failing(monkeypatch, Wake, "o-1")
    e.silent.clear()
    e.pass_time(timedelta(seconds=15))
    assert [e.saga(f"o-{n}").status for n in (0, 2)] == ["completed", "completed"]
    assert (e.saga("o-1").attention, e.saga("o-1").error_code) == ("blocked", "internal_error")
