"""One record or one saga that can't be processed never hurts the others, never stops a partition, never disappears."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.contract import minutes
from segue.coordinator import work
from segue.coordinator.service import UNREADABLE_FOR
from segue.coordinator.store import Unfit
from segue.errors import RejectedWrite
from segue.saga import Saga, saga
from segue.saga.inputs import Cancel, Reply, SignalArrived, Wake
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.coordinator.test_service import letters, reasons
from tests.unit.saga.kit import Order, charge, refund, release, reserve
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


def waiting(e: Estate, most: int = 3) -> None:
    """Sagas whose first command is not answered."""
    e.silent.add("payments.charge")
    for n in range(most):
        e.start(order_saga, Order(), f"o-{n}")
    e.run()
    e.silent.clear()


@contextmanager
def unreadable(e: Estate, saga_id: str) -> Iterator[None]:
    """As if a newer version of Segue had moved the saga on, and then somebody had taken the deploy back."""
    events = e.store.tables.events[saga_id]  # type: ignore[attr-defined]
    written, events[0] = events[0], msgspec.structs.replace(events[0], payload=b'[{"e":"of tomorrow"}]')
    e.coordinators[0].close()
    e.coordinators = [e.coordinator()]
    yield
    events[0] = written


def test_a_due_saga_whose_history_can_not_be_read_is_left_to_others_and_the_others_wake(estate: Make) -> None:
    e = estate(order_saga)
    waiting(e)
    with unreadable(e, "o-1"):
        e.pass_time(timedelta(seconds=15))
        assert [e.saga(f"o-{n}").status for n in (0, 2)] == ["completed", "completed"]
        left = e.saga("o-1")
        assert (left.status, left.attention) == ("running", "none")
        assert left.wake_at is not None
        assert left.wake_at > e.store.now()
    e.pass_time(UNREADABLE_FOR)
    assert e.saga("o-1").status == "completed"


def test_a_saga_of_which_nothing_can_be_written_keeps_no_other_one_from_waking(estate: Make, store: Any) -> None:
    e = estate(order_saga)
    waiting(e)
    e.coordinators[0].close()
    e.coordinators = [e.coordinator(store=Picky(store, "o-1"))]
    e.pass_time(timedelta(seconds=15))
    assert [e.saga(f"o-{n}").status for n in (0, 2)] == ["completed", "completed"]
    wake_at = e.saga("o-1").wake_at
    assert wake_at is not None
    assert wake_at > store.now()


def outcomes(e: Estate) -> dict[str | None, str | None]:
    return {entry.saga_id: entry.outcome for entry in e.store.tables.audits}  # type: ignore[attr-defined]


def test_what_a_person_asks_of_a_saga_that_can_not_be_read_is_refused_and_the_rest_is_done(estate: Make) -> None:
    e = estate(order_saga)
    waiting(e)
    with unreadable(e, "o-1"):
        for n in range(3):
            e.ask("cancel", f"o-{n}")
        e.run()
        told = outcomes(e)
        assert told.pop("o-1").startswith("refused: history written by another version")  # type: ignore[union-attr]
        assert told == {"o-0": "done", "o-2": "done"}
        assert not e.store.look(NAMES.coordinator, []).requests


def test_what_a_person_asks_and_a_bug_of_ours_can_not_do_is_told_and_the_rest_is_done(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    waiting(e)
    failing(monkeypatch, Cancel, "o-1")
    for n in range(3):
        e.ask("cancel", f"o-{n}")
    e.run()
    told = outcomes(e)
    assert told.pop("o-1") == "failed: ZeroDivisionError('a bug of our own')"
    assert told == {"o-0": "done", "o-2": "done"}
    assert not e.store.look(NAMES.coordinator, []).requests


def test_a_parked_record_that_a_bug_of_ours_can_not_apply_dies_and_the_others_are_folded(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    for n in range(3):
        e.request("signal", f"o-{n}", "hurry", None)
    e.run()
    assert {letter.state for letter in letters(e)} == {"parked"}
    failing(monkeypatch, SignalArrived, "o-1")
    waiting(e)
    e.pass_time(timedelta(seconds=2))
    assert {letter.saga_id: letter.state for letter in letters(e)} == {
        "o-0": "replayed",
        "o-1": "dead",
        "o-2": "replayed",
    }


class Behind:
    """A store whose tables lack a column, for as long as `lacks` says."""

    def __init__(self, store: Any) -> None:
        self._store, self.lacks = store, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def batch(self) -> Iterator[Any]:
        with self._store.batch() as batch:
            write = batch.write

            def behind(changes: Any) -> Any:
                if self.lacks and changes.events:
                    raise Unfit("the database lacks what Segue needs (42703)")
                return write(changes)

            batch.write = behind
            yield batch


def test_no_record_dies_of_a_database_that_lacks_what_this_version_needs(estate: Make, store: Any) -> None:
    e = estate(order_saga)
    e.coordinators[0].close()
    behind = Behind(store)
    e.coordinators = [e.coordinator(store=behind)]
    for n in range(3):
        e.start(order_saga, Order(), f"o-{n}")
    e.run()
    assert letters(e) == []
    behind.lacks = False
    e.run(200)
    assert [e.saga(f"o-{n}").status for n in range(3)] == ["completed"] * 3


def answer_unreadably(e: Estate, command: Any) -> None:
    headers = (("ce_causationid", command.id.encode()), ("ce_sagaid", command.saga_id.encode()))
    e.send(command.reply_to, command.saga_id, b'{"charge_id": NaN}', (*headers, ("ce_sagaoutcome", b"success")))


def test_an_unreadable_copy_of_what_is_settled_dies_and_does_not_block_its_saga(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.update({"stock.reserve"})
    e.start(order_saga, Order(), "o-1")
    e.run()
    answer_unreadably(e, e.commands[0])
    e.run()
    assert [(letter.state, letter.saga_id) for letter in letters(e)] == [("dead", "o-1")]
    assert e.saga("o-1").attention == "none"


def test_an_unreadable_answer_of_an_undo_is_kept_till_the_undo_is_done_and_dies_afterwards(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.update({"stock.reserve", "stock.release", "payments.refund"})
    e.start(order_saga, Order(), "o-1")
    e.run()
    e.request("cancel", "o-1", "all")
    e.run()
    refunding = [command for command in e.commands if command.action == "compensate"]
    e.reply(refunding[0])
    e.run()
    answer_unreadably(e, refunding[0])
    e.run()
    assert [letter.state for letter in letters(e)] == ["dead"]
    answer_unreadably(e, [command for command in e.commands if command.action == "compensate"][-1])
    e.run()
    assert [letter.state for letter in letters(e)] == ["dead", "received"]


def test_a_saga_with_two_unreadable_answers_waits_till_a_person_has_dealt_with_both(estate: Make) -> None:
    @saga("both")
    async def both(s: Saga, order: Order) -> str:
        charging = s.call(charge, order, compensate=refund, timeout=minutes(5))
        await asyncio.gather(charging, s.call(reserve, order, compensate=release, timeout=minutes(5)))
        return "both"

    e = estate(both)
    e.silent.update({"payments.charge", "stock.reserve"})
    e.start(both, Order(), "o-1")
    e.run()
    for command in e.commands:
        answer_unreadably(e, command)
    e.run()
    e.ask("retry", "o-1")
    assert e.saga("o-1").attention == "blocked"
    first, second = letters(e)
    e.ask("replay", letter=first.id, value=b64encode(b'{"charge_id":"ch-1"}').decode())
    e.pass_time(timedelta(minutes=10))
    assert (e.saga("o-1").status, e.saga("o-1").attention) == ("running", "blocked")
    e.ask("replay", letter=second.id, value=b64encode(b"null").decode())
    e.run()
    assert e.saga("o-1").status == "completed"
