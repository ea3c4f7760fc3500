"""The coordinator in an estate: sagas start, move, are undone; trouble passes; nothing is lost or counts twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from segue.contract import hours, minutes
from segue.coordinator.gate import DrainGate
from segue.coordinator.service import Options
from segue.errors import ConfigError, StoreUnavailable
from segue.saga import Saga, SagaFailed, saga
from segue.topics.broker import Polled
from segue.topics.envelope import Reply
from segue.topics.memory import MemoryConsumer, MemoryProducer
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.saga.kit import (
    Order,
    charge,
    decision,
    payout,
    refund,
    release,
    reserve,
    ship,
)
from tests.unit.saga.sagas import order_saga

Make = Callable[..., Estate]
ORDER = Order()


@saga("deciding", deadline=hours(48))
async def deciding(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund)
    if not await s.receive(decision):
        raise SagaFailed("declined")
    return "approved"


def test_a_start_request_runs_the_saga_to_its_end(estate: Make) -> None:
    e = estate(order_saga)
    e.start(order_saga, ORDER, "o-1")
    e.run()
    row = e.saga("o-1")
    assert row.status == "completed"
    assert row.result == b'{"parcel":"p-1"}'
    assert e.sent("o-1") == ["payments.charge", "stock.reserve", "shipping.ship", "mail.confirm"]


def test_a_failure_undoes_in_reverse_order(estate: Make) -> None:
    e = estate(order_saga)
    e.answers["shipping.ship"] = lambda c: ("failure", {"message": "all out"}, {"error": "no_courier"})
    e.start(order_saga, ORDER, "o-1")
    e.run()
    row = e.saga("o-1")
    assert (row.status, row.error_code, row.attention) == ("compensated", "no_courier", "none")
    assert e.sent("o-1")[-2:] == ["undo stock.reserve", "undo payments.charge"]


def test_a_setting_that_was_right_once_ends_no_coordinator_and_one_that_never_was_does(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MemoryConsumer, most: int, timeout: float) -> Polled:
        raise ConfigError("no such topic or partition")

    e = estate(order_saga)
    [coordinator] = e.coordinators
    with monkeypatch.context() as broken:
        broken.setattr(MemoryConsumer, "poll", refuse)
        with pytest.raises(ConfigError):
            coordinator.step()
    coordinator.step()
    with monkeypatch.context() as broken:
        broken.setattr(MemoryConsumer, "poll", refuse)
        assert not coordinator.step()
    e.start(order_saga, ORDER, "o-1")
    e.run()
    assert e.saga("o-1").status == "completed"


def test_commands_linger_no_longer_than_there_is_something_to_read(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    [coordinator] = e.coordinators
    coordinator.step()
    e.start(order_saga, ORDER, "o-1")
    poll = MemoryProducer.poll
    monkeypatch.setattr(MemoryProducer, "poll", lambda self, timeout=0.0: poll(self) if timeout else 0)
    assert coordinator.step(0.1)
    assert not e.broker.records("payments.commands")
    coordinator.step(0.1)
    assert len(e.broker.records("payments.commands")) == 1


def test_records_are_waited_for_while_commands_are_not_acknowledged(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = estate(order_saga)
    [coordinator] = e.coordinators
    coordinator.step()
    e.start(order_saga, ORDER, "o-1")
    waits: list[tuple[str, float]] = []
    read = MemoryConsumer.poll

    def reading(self: MemoryConsumer, max_records: int, timeout: float) -> Polled:
        waits.append(("read", timeout))
        return read(self, max_records, timeout)

    def sending(self: MemoryProducer, timeout: float = 0.0) -> int:
        waits.append(("send", timeout))
        return 0

    monkeypatch.setattr(MemoryConsumer, "poll", reading)
    monkeypatch.setattr(MemoryProducer, "poll", sending)
    coordinator.step()
    waits.clear()
    for _ in range(3):
        coordinator.step(0.1)
    assert [wait for wait in waits if wait[1]] == [("send", 0.002), ("read", 0.02), ("read", 0.02)]


def test_a_thousand_sagas_need_few_commits(estate: Make) -> None:
    e = estate(order_saga)
    for n in range(1000):
        e.start(order_saga, ORDER, f"o-{n}")
    e.run()
    counts = e.observer.counts
    assert counts["saga.completed"] == 1000
    assert counts["commits"] / counts["transitions"] < 0.02


def test_the_same_start_twice_is_one_saga(estate: Make) -> None:
    e = estate(order_saga)
    for n in range(3):
        e.start(order_saga, ORDER, "o-1", message_id=f"m-{n}")
    e.run()
    assert e.sent("o-1").count("payments.charge") == 1
    assert e.dead() == []


def test_the_same_id_with_another_input_is_refused(estate: Make) -> None:
    e = estate(order_saga)
    e.start(order_saga, ORDER, "o-1")
    e.start(order_saga, Order(account="bob"), "o-1", message_id="other")
    e.run()
    assert e.saga("o-1").status == "completed"
    assert reasons(e) == ["start_conflict"]


def test_every_message_three_times_gives_the_same_end(estate: Make) -> None:
    e = estate(order_saga)
    send = e.send

    def thrice(*args: Any) -> None:
        for _ in range(3):
            send(*args)

    setattr(e, "send", thrice)  # noqa: B010 - in place of a method
    e.start(order_saga, ORDER, "o-1")
    e.run()
    assert e.saga("o-1").status == "completed"
    assert e.sent("o-1") == ["payments.charge", "stock.reserve", "shipping.ship", "mail.confirm"]


def test_silence_is_answered_with_the_same_bytes(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.add("payments.charge")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    e.pass_time(timedelta(seconds=15))
    first, second = e.broker.records(NAMES.commands_of("payments"))
    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)


def test_silence_until_the_timeout_compensates_the_silent_step_too(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.add("stock.reserve")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    for _ in range(30):
        e.pass_time(timedelta(seconds=20))
    assert e.saga("o-1").status == "compensated"
    assert e.sent("o-1")[-2:] == ["undo stock.reserve", "undo payments.charge"]


def test_an_outage_longer_than_every_deadline_compensates_nobody(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.add("payments.charge")
    for n in range(20):
        e.start(order_saga, ORDER, f"o-{n}")
    e.run()
    for coordinator in e.coordinators:
        coordinator.close()
    e.silent.clear()
    for command in list(e.commands):
        e.reply(command, "success", {"charge_id": "c"})
    e.clock.advance(hours(6))
    e.coordinators = [e.coordinator()]
    e.run()
    assert {e.saga(f"o-{n}").status for n in range(20)} == {"completed"}
    assert not any(step.startswith("undo") for step in e.sent())


def test_amid_a_backlog_the_gate_is_asked_for_no_more_often_than_the_clock_ticks(
    estate: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[datetime] = []
    open_to = DrainGate.open_to

    def counted(gate: DrainGate, wanted: datetime) -> bool:
        asked.append(wanted)
        return open_to(gate, wanted)

    e = estate(order_saga)
    e.silent.add("payments.charge")
    for n in range(20):
        e.start(order_saga, ORDER, f"o-{n}")
    e.run()
    e.coordinators.pop().close()
    for command in list(e.commands):
        e.reply(command, "success", {"charge_id": "c"})
    e.clock.advance(hours(6))
    monkeypatch.setattr(DrainGate, "open_to", counted)
    e.options = Options(batch_size=1, tick=0.1)
    coordinator = e.coordinator()
    e.coordinators = [coordinator]
    for _ in range(20):
        coordinator.step()
        e.clock.advance(timedelta(milliseconds=25))
    assert 2 <= len(asked) <= 6


def test_a_partition_that_nobody_reads_keeps_the_gate_shut(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.add("payments.charge")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    other = e.broker.consumer(NAMES.coordinator)  # a member of the group that owns partitions and reads nothing
    other.subscribe([NAMES.replies, NAMES.requests], starts=lambda _: {}, revoked=lambda _: None)
    e.run()
    other.poll(0, 0)
    for n in range(50):
        e.send(NAMES.replies, f"k-{n}", b"null", ())
    e.clock.advance(hours(3))
    e.run()
    assert e.saga("o-1").status == "running"
    other.close()
    e.run()
    assert e.saga("o-1").status != "running"


def test_a_signal_before_the_start_waits_for_its_saga(estate: Make) -> None:
    e = estate(deciding)
    e.request("signal", "d-1", "decision", True)
    e.run()
    e.start(deciding, ORDER, "d-1")
    e.run()
    assert e.saga("d-1").result == b'"approved"'


def test_a_signal_counts_once_however_often_it_comes(estate: Make) -> None:
    @saga("two")
    async def two(s: Saga, order: Order) -> list[bool]:
        return [await s.receive(decision), await s.receive(decision)]

    e = estate(two)
    e.start(two, ORDER, "d-1")
    for _ in range(3):
        e.request("signal", "d-1", "decision", True, message_id="same")
    e.run()
    assert e.saga("d-1").status == "running"
    e.request("signal", "d-1", "decision", False, message_id="other")
    e.run()
    assert e.saga("d-1").result == b"[true,false]"


def test_a_cancel_request_undoes_the_saga(estate: Make) -> None:
    e = estate(deciding)
    e.start(deciding, ORDER, "d-1")
    e.run()
    e.request("cancel", "d-1", "all")
    e.run()
    assert e.saga("d-1").status == "cancelled"
    assert e.sent("d-1") == ["payments.charge", "undo payments.charge"]


# --- bad input


def reasons(e: Estate) -> list[str]:
    return [dict(record.headers)["dlq_reason"].decode() for record in e.dead()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"{", (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b"NaN", (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b"[" * 5000, (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b'"' + b"x" * 300_000 + b'"', (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b"{}", ()),
        (b"{}", (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"explode"))),
        (b"{}", (("ce_id", b"\xff"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b'{"id":1}', (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (None, (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"))),
        (b"{}", (("ce_id", b"1"), ("ce_type", b"order"), ("ce_sagaaction", b"start"), ("ce_sagaid", b"a b\x00c"))),
    ],
)
def test_a_request_that_cannot_be_used_is_dead_lettered_as_it_is_and_the_partition_moves_on(
    estate: Make, value: bytes | None, headers: Any
) -> None:
    e = estate(order_saga)
    e.send(NAMES.requests, "k", value, headers)
    e.start(order_saga, ORDER, "k")
    e.run()
    [record] = e.dead()
    assert (record.key, record.value) == (b"k", value)
    assert record.headers[: len(headers)] == headers
    assert e.saga("k").status == "completed"


def test_a_reply_to_an_unknown_saga_is_dead_lettered(estate: Make) -> None:
    e = estate(order_saga)
    e.send(NAMES.replies, "nobody", b"null", (("ce_causationid", b"c-1"),))
    e.run()
    assert reasons(e) == ["unknown_saga"]


def test_a_forged_reply_to_a_live_saga_changes_nothing(estate: Make) -> None:
    e = estate(deciding)
    e.start(deciding, ORDER, "d-1")
    e.run()
    before = e.saga("d-1")
    e.send(NAMES.replies, "d-1", b"null", (("ce_causationid", b"forged"),))
    e.run()
    assert e.saga("d-1") == before
    assert reasons(e) == ["foreign_reply"]


def test_an_undecodable_reply_is_kept_and_blocks_only_its_saga_until_it_is_replayed(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.add("payments.charge")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    [command] = e.commands
    e.silent.clear()
    e.send(command.reply_to, "o-1", b"{broken", (("ce_causationid", command.id.encode()),))
    e.start(order_saga, ORDER, "o-2")
    e.run()
    assert e.saga("o-1").attention == "blocked"
    assert e.saga("o-2").status == "completed"
    e.pass_time(hours(5))
    assert e.saga("o-1").status == "running"
    [letter] = letters(e)
    assert (letter.state, letter.saga_id, letter.record.value) == ("received", "o-1", b"{broken")
    import base64

    e.ask("replay", letter=letter.id, value=base64.b64encode(b'{"charge_id":"c"}').decode())
    e.run()
    assert e.saga("o-1").status == "completed"
    assert letters(e)[0].state == "replayed"


def letters(e: Estate) -> list[Any]:
    with e.store.batch() as batch:
        return [letter for _, letter in sorted(batch.dead_letters(range(1, 50)).items())]


def test_a_late_success_after_the_end_is_seen(estate: Make) -> None:
    @saga("giving-up")
    async def giving_up(s: Saga, order: Order) -> None:
        await s.call(payout, order, timeout=minutes(1))

    e = estate(giving_up)
    e.silent.add("bank.payout")
    e.start(giving_up, ORDER, "g-1")
    e.run()
    e.request("cancel", "g-1", "none")
    e.run()
    assert e.saga("g-1").status == "cancelled"
    e.reply(e.commands[0])
    e.run()
    assert reasons(e) == ["late_success"]


# --- people


def test_a_bug_blocks_the_saga_and_a_retry_with_mended_code_lets_it_go_on(estate: Make) -> None:
    def version(mended: bool) -> Any:
        @saga("buggy")
        async def buggy(s: Saga, order: Order) -> str:
            await s.call(charge, order, compensate=refund)
            if not mended:
                raise KeyError("oops")
            return "ok"

        return buggy

    e = estate(version(False))
    e.start(e.definitions[0], ORDER, "b-1")
    e.run()
    row = e.saga("b-1")
    assert (row.attention, row.error_class) == ("blocked", "KeyError")
    e.coordinators[0].close()
    e.coordinators = [e.coordinator([version(True)])]
    e.ask("retry", "b-1")
    e.run()
    assert e.saga("b-1").status == "completed"


def test_a_person_retries_skips_and_resolves_and_all_of_it_is_audited(estate: Make) -> None:
    @saga("parking")
    async def parking(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, on_failure="park")
        await s.call(reserve, order, compensate=release, on_failure="park")
        await s.call(payout, order, timeout=minutes(1))

    e = estate(parking)
    for name in ("payments.charge", "stock.reserve"):
        e.answers[name] = lambda c: ("failure", None, {"error": "no"})
    e.silent.add("bank.payout")
    e.start(parking, ORDER, "p-1")
    e.run()
    del e.answers["payments.charge"]
    e.ask("retry", "p-1", step="payments.charge")
    e.run()
    e.ask("skip", "p-1", step="stock.reserve")
    e.run()
    for _ in range(6):
        e.pass_time(timedelta(seconds=20))
    assert e.saga("p-1").attention == "in_doubt"
    e.ask("resolve", "p-1", step="bank.payout", outcome="success")
    e.ask("skip", "p-1", step="nothing")
    e.run()
    assert e.saga("p-1").status == "completed"


# --- trouble


class Flaky:
    """A store whose transactions fail on demand: before the COMMIT, or after it (the caller can't tell)."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.fail_before = self.fail_after = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self) -> Any:
        return _FlakyBatch(self, self._store.batch())


class _FlakyBatch:
    def __init__(self, flaky: Flaky, inner: Any) -> None:
        self._flaky, self._inner = flaky, inner

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *error: Any) -> Any:
        if error[0] is None and self._flaky.fail_before:
            self._flaky.fail_before -= 1
            failure = StoreUnavailable("connection lost before the COMMIT")
            self._inner.__exit__(type(failure), failure, None)
            raise failure
        result = self._inner.__exit__(*error)
        if error[0] is None and self._flaky.fail_after:
            self._flaky.fail_after -= 1
            raise StoreUnavailable("connection lost; whether the COMMIT happened is unknown")
        return result


@pytest.mark.parametrize("where", ["fail_before", "fail_after"])
@pytest.mark.parametrize("batch", range(1, 9))
def test_a_transaction_of_unknown_outcome_is_run_again_harmlessly(
    estate: Make, store: Any, where: str, batch: int
) -> None:
    e = estate(order_saga)
    flaky = Flaky(store)
    e.coordinators[0].close()
    e.coordinators = [e.coordinator(store=flaky)]
    e.start(order_saga, ORDER, "o-1")
    for turn in range(40):
        if turn == batch:
            setattr(flaky, where, 1)
        e.coordinators[0].step()
        e.answer()
        e.clock.advance(timedelta(milliseconds=120))
    e.relay()
    e.run()
    assert e.saga("o-1").status == "completed"
    assert len(set(e.sent("o-1"))) == 4


def test_two_coordinators_share_the_work_and_a_zombie_changes_nothing(estate: Make) -> None:
    e = estate(order_saga)
    e.coordinators.append(e.coordinator())
    for n in range(40):
        e.start(order_saga, ORDER, f"o-{n}")
    e.run()
    frozen = e.coordinators.pop(0)
    for n in range(40, 80):
        e.start(order_saga, ORDER, f"o-{n}")
    e.coordinators.append(e.coordinator())
    e.broker.expel(frozen._consumer)  # type: ignore[arg-type]
    e.run()
    e.coordinators.append(frozen)
    for n in range(80, 120):
        e.start(order_saga, ORDER, f"o-{n}")
    e.run(200)
    assert {e.saga(f"o-{n}").status for n in range(120)} == {"completed"}
    assert len(e.sent()) == 480


def test_a_topic_that_was_created_again_is_read_from_its_beginning(estate: Make) -> None:
    e = estate(order_saga)
    e.start(order_saga, ORDER, "o-1")
    e.run()
    e.coordinators[0].close()
    e.broker.delete_topic(NAMES.requests)
    e.broker.create_topic(NAMES.requests)
    e.start(order_saga, ORDER, "o-2")
    e.coordinators = [e.coordinator()]
    e.run()
    assert e.saga("o-2").status == "completed"


def test_a_topic_that_was_created_again_and_has_outgrown_its_reader_is_read_from_its_beginning(estate: Make) -> None:
    e = estate(order_saga)
    e.start(order_saga, ORDER, "o-1")
    e.run()
    e.broker.delete_topic(NAMES.requests)
    e.broker.create_topic(NAMES.requests)
    for n in range(20):  # beyond the offsets at which the old topic was read to its end: none is out of range
        e.start(order_saga, ORDER, f"n-{n}")
    e.run()
    e.pass_time(timedelta(seconds=6))
    assert {e.saga(f"n-{n}").status for n in range(20)} == {"completed"}


def test_a_saga_of_a_version_that_is_not_here_waits_for_a_coordinator_that_has_it(estate: Make) -> None:
    @saga("order", version=2, deadline=hours(1))
    async def newer(s: Saga, order: Order) -> None:
        await s.call(ship, order)

    e = estate(order_saga)
    e.silent.add("stock.reserve")
    e.start(order_saga, ORDER, "o-1")
    e.run()
    e.coordinators[0].close()
    e.coordinators = [e.coordinator([newer])]
    [command] = [c for c in e.commands if c.step == "stock.reserve"]
    e.reply(command)
    e.run()
    assert e.saga("o-1").waiting_for == "a coordinator that has order version 1"
    e.coordinators.append(e.coordinator([order_saga]))
    e.run()
    assert e.saga("o-1").status == "completed"


def test_an_undecodable_answer_during_the_undo_holds_its_saga_only_until_a_person_discards_it(estate: Make) -> None:
    e = estate(order_saga)
    e.silent.update(("payments.charge", "payments.refund"))
    e.start(order_saga, ORDER, "o-1")
    e.run()
    e.request("cancel", "o-1", "all")
    e.run()
    charge_command = e.commands[0]
    e.send(NAMES.replies, "o-1", b"{broken", Reply(id="r-1", command_id=charge_command.id, saga_id="o-1").headers())
    e.run()
    assert (e.saga("o-1").status, e.saga("o-1").attention) == ("compensating", "blocked")
    e.silent.clear()
    e.ask("discard", letter=1)
    e.run()
    e.pass_time(minutes(1))
    assert e.saga("o-1").status == "cancelled"


def test_code_that_changed_after_the_end_of_a_saga_leaves_it_alone(estate: Make) -> None:
    @saga("changing")
    async def before(s: Saga, order: Order) -> None:
        await s.call(charge, order)

    @saga("changing")
    async def after(s: Saga, order: Order) -> None:
        await s.call(reserve, order)

    e = estate(before)
    e.start(before, ORDER, "o-1")
    e.run()
    ended = e.saga("o-1")
    e.coordinators = [e.coordinator([after])]
    e.request("signal", "o-1", "decision", True)
    e.run()
    assert e.saga("o-1") == ended


def test_a_signal_that_was_parked_and_came_again_after_the_start_counts_once_and_disturbs_nobody(estate: Make) -> None:
    e = estate(deciding)
    e.silent.add("payments.charge")
    e.request("signal", "o-1", "decision", False, message_id="m-1")
    e.run()
    e.start(deciding, ORDER, "o-1")
    e.request("signal", "o-1", "decision", False, message_id="m-1")
    e.run()
    e.pass_time(timedelta(seconds=3))
    assert {letter.state for letter in letters(e)} == {"replayed"}
    assert "trouble.fenced" not in e.observer.counts


def test_a_put_off_answer_that_never_comes_is_silence_whichever_coordinator_hears_its_copies(estate: Make) -> None:
    e = estate(order_saga, options=Options(cache_size=0))
    e.coordinators.append(e.coordinator())
    e.answers["payments.charge"] = lambda c: ("pending", None)
    e.start(order_saga, ORDER, "o-1")
    e.run()
    for _ in range(40):
        e.pass_time(timedelta(seconds=20))
    assert e.sent("o-1").count("payments.charge") > 3
    assert e.saga("o-1").status == "compensated"


def test_a_retry_that_was_due_while_nobody_had_the_version_still_has_its_time(estate: Make) -> None:
    @saga("order", version=2)
    async def newer(s: Saga, order: Order) -> None:
        await s.call(ship, order)

    e = estate(order_saga)
    e.answers["payments.charge"] = lambda c: (
        ("retry", None, {"error": "busy"}) if c.attempt == 1 else ("success", {"charge_id": "c"})
    )
    e.start(order_saga, ORDER, "o-1")
    e.coordinators[0].step()
    e.coordinators[0].drain()
    e.coordinators[0].close()
    e.coordinators = [e.coordinator([newer])]
    e.run()
    e.pass_time(minutes(30))
    assert e.sent("o-1") == ["payments.charge"]
    e.coordinators.append(e.coordinator([order_saga]))
    e.run()
    assert e.saga("o-1").status == "completed"
    assert [c.attempt for c in e.commands if c.step == "payments.charge"] == [1, 2]


def test_a_coordinator_whose_database_is_away_stays_in_its_group(estate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(coordinator: str) -> Any:
        raise StoreUnavailable("away")

    polls = 0
    read = MemoryConsumer.poll

    def reading(self: MemoryConsumer, max_records: int, timeout: float) -> Polled:
        nonlocal polls
        polls += 1
        return read(self, max_records, timeout)

    e = estate(order_saga)
    [coordinator] = e.coordinators
    coordinator.step()
    e.start(order_saga, ORDER, "o-1")
    with monkeypatch.context() as broken:
        broken.setattr(MemoryConsumer, "poll", reading)
        broken.setattr(e.store, "batch", lambda: away(""))
        broken.setattr(e.store, "offsets", away)
        for _ in range(3):
            assert not coordinator.step(0.1)
        assert polls == 3
    e.run()
    assert e.saga("o-1").status == "completed"
