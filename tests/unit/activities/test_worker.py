from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, select, update
from sqlalchemy.orm import sessionmaker

from segue import outbox
from segue.activities import Activity, Rejected, ReplyLater, RetryLater, Worker, reply
from segue.errors import ConfigError, ContractError, NotAllowed, NotFound, RejectedRecord, UsageError
from segue.outbox.schema import inbox_table, outbox_quarantine_table, outbox_table
from segue.topics.broker import Acked, Outgoing, Polled
from segue.topics.memory import MemoryBroker, MemoryConsumer, MemoryProducer
from tests.unit.activities.kit import (
    COMMANDS,
    COORDINATOR,
    DEAD,
    Bomb,
    Charged,
    Killed,
    Order,
    Service,
    book,
    charge,
    command,
    later,
    memory_engine,
    past,
    refund,
)


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def test_effect_fence_and_reply_are_one_commit_and_the_reply_reaches_kafka(service: Service) -> None:
    service.send(command())
    service.settle()
    [reply] = service.replies()
    assert reply.outcome == "success"
    assert reply.command_id == command().id
    assert service.body() == {"charge_id": f"{COORDINATOR}/o-1/payments.charge/invoke"}
    assert service.balance() == 1
    assert service.outbox_rows() == 0
    assert service.committed() == 1


def test_a_reply_lingers_no_longer_than_there_is_something_to_do(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.loop.step()
    service.send(command())
    poll = MemoryProducer.poll
    monkeypatch.setattr(MemoryProducer, "poll", lambda self, timeout=0.0: poll(self) if timeout else 0)
    while service.loop.step(0.1):
        assert not service.wire() or not service.loop.busy
    assert service.outcomes() == ["success"]


def test_commands_are_waited_for_while_replies_are_not_acknowledged(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.loop.step()
    service.send(command())
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
    for _ in range(6):
        service.loop.step(0.1)
    waited = [wait for wait in waits if wait[1]]
    assert waited[1] == ("send", 0.002), "first all is sent at once"
    assert {name for name, _ in waited[2:]} == {"read"}, "and then no command waits for an acknowledgement"
    assert service.loop.busy
    assert not service.loop.handling


def test_a_reply_echoes_the_headers_of_its_command(service: Service) -> None:
    service.send(command())
    service.settle()
    [record] = service.wire()
    [reply] = service.replies()
    assert record.key == b"o-1"
    assert (reply.saga_id, reply.saga_type, reply.step, reply.action, reply.attempt) == (
        "o-1",
        "order",
        "payments.charge",
        "invoke",
        "1",
    )
    assert reply.passed_on == (("traceparent", "00-aa-bb-01"),)
    assert reply.source == "/payments"


def test_a_duplicate_is_answered_with_the_stored_reply_byte_for_byte_and_without_effect(service: Service) -> None:
    service.send(command())
    service.settle()
    service.send(command(), command(), command())
    service.settle()
    first, *others = service.wire()
    assert len(others) >= 1
    for other in others:
        assert (other.key, other.value, other.headers) == (first.key, first.value, first.headers)
    assert service.balance() == 1
    assert service.calls == ["charge o-1"]


def test_compensation_receives_input_and_output(service: Service) -> None:
    seen: list[Any] = []
    service.undo_behaviour = lambda ctx, undo: seen.append((undo.input.id, undo.output and undo.output.charge_id))
    service.send(command(), command(activity=refund))
    service.settle()
    assert service.outcomes() == ["success", "success"]
    assert seen == [("o-1", "c-1")]
    assert charge.name != refund.name


def test_a_rejection_rolls_the_effect_back_and_answers_failure(service: Service) -> None:
    def spend_and_reject(ctx: Any, order: Any) -> Charged:
        book(ctx, order)
        ctx.session.flush()
        raise Rejected("insufficient_funds", "balance is 0", details={"balance": 0})

    service.behaviour = spend_and_reject
    for _ in range(2):
        service.send(command())
        service.settle()
    assert set(service.outcomes()) == {"failure:insufficient_funds"}
    assert service.body() == {"code": "insufficient_funds", "message": "balance is 0", "details": {"balance": 0}}
    assert service.bookings() == 0
    assert service.calls == ["charge o-1"], "the duplicate is answered from the row"
    assert service.replies()[0].effect == "none"


def test_any_other_exception_rolls_back_and_answers_retry_with_its_class(service: Service) -> None:
    def explode(ctx: Any, order: Any) -> Charged:
        book(ctx, order)
        raise KeyError("x" * 5000)

    service.behaviour = explode
    service.send(command())
    service.settle()
    assert service.outcomes() == ["retry:KeyError"]
    assert len(service.body()["message"]) <= 1024
    assert "Traceback" not in service.body()["message"]
    assert service.bookings() == 0
    service.behaviour = None
    service.send(command(attempt=2))
    service.settle()
    assert service.outcomes() == ["retry:KeyError", "success"]
    assert service.bookings() == 1


def test_retry_later_says_when(service: Service) -> None:
    def busy(ctx: Any, order: Any) -> Charged:
        raise RetryLater(timedelta(seconds=30), code="bank_closed")

    service.behaviour = busy
    service.send(command())
    service.settle()
    [reply] = service.replies()
    assert (reply.outcome, reply.error, reply.retry_after) == ("retry", "bank_closed", 30.0)


@pytest.mark.parametrize("leave", [SystemExit, Exception, asyncio.CancelledError])
def test_whatever_a_handler_raises_the_worker_goes_on(service: Service, leave: type[BaseException]) -> None:
    def explode(ctx: Any, order: Any) -> Charged:
        raise leave

    service.behaviour = explode
    service.send(command())
    service.settle()
    service.behaviour = None
    service.send(command("o-2"))
    service.settle()
    assert service.outcomes() == [f"retry:{leave.__name__}", "success"]


def test_undo_before_do_has_no_effect_and_the_do_is_refused(service: Service) -> None:
    service.send(command(activity=refund), command(), command(attempt=2))
    service.settle()
    assert service.outcomes() == ["success", "failure:compensated", "failure:compensated"]
    assert service.calls == []
    assert service.bookings() == 0


def test_a_lower_attempt_after_a_higher_one_has_no_effect(service: Service) -> None:
    service.send(command(attempt=2), command(attempt=1))
    service.settle()
    assert service.outcomes() == ["success", "failure:superseded"]
    assert service.bookings() == 1


def test_a_later_attempt_after_a_success_is_answered_with_it_under_its_own_id(service: Service) -> None:
    service.send(command(), command(attempt=2))
    service.settle()
    first, second = service.replies()
    assert (first.command_id, second.command_id) == (command().id, command(attempt=2).id)
    assert service.body(0) == service.body(1)
    assert service.bookings() == 1


def test_a_duplicate_of_everything_three_times_changes_nothing(service: Service) -> None:
    script = [command(), command(activity=refund), command("o-2"), command("o-3"), command("o-3", attempt=2)]
    service.send(*[each for each in script for _ in range(3)])
    service.settle(20)
    assert [service.balance(order) for order in ("o-1", "o-2", "o-3")] == [0, 1, 1]
    assert service.bookings() == 4
    ids = {record.headers[1]: (record.headers, record.value) for record in service.wire()}
    for record in service.wire():
        assert ids[record.headers[1]] == (record.headers, record.value)


def test_an_expired_command_is_answered_and_not_done(service: Service) -> None:
    service.send(command(deadline=past(seconds=5)), command("o-2", activity=refund, deadline=past(seconds=5)))
    service.settle()
    assert sorted(service.outcomes()) == ["failure:expired", "success"]
    assert service.bookings() == 0


def test_a_command_from_beyond_the_horizon_is_dead_lettered_without_an_answer(service: Service) -> None:
    service.send(command(sent=past(days=15)))
    service.settle()
    assert service.outcomes() == []
    [dead] = service.broker.records(DEAD)
    assert dict(dead.headers)["dlq_reason"] == b"beyond_horizon"
    assert service.inbox() == []
    assert service.committed() == 1


@pytest.mark.parametrize("body", [b"{no json", b'{"id": 17}', b"\xff\xfe", b'{"id": "x", "total": "many"}'])
def test_a_payload_that_makes_no_sense_is_answered_and_dead_lettered_byte_for_byte(
    service: Service, body: bytes
) -> None:
    service.send(command(), body=body)
    service.send(command("o-2"))
    service.settle()
    assert sorted(service.outcomes()) == ["retry:invalid_input", "success"]
    [dead] = service.broker.records(DEAD)
    assert (dead.key, dead.value) == (b"o-1", body)
    [sent] = [record for record in service.broker.records(COMMANDS) if record.value == body]
    assert dead.headers[: len(sent.headers)] == sent.headers
    assert dict(dead.headers)["dlq_saga_id"] == b"o-1"
    assert service.committed() == 2


def test_an_unknown_activity_is_answered_and_dead_lettered(service: Service) -> None:
    service.send(later(command(), activity="payments.nothing"))
    service.settle()
    assert service.outcomes() == ["retry:unknown_activity"]
    [dead] = service.broker.records(DEAD)
    assert dict(dead.headers)["dlq_reason"] == b"unknown_activity"


def test_a_mismatch_is_marked_and_dead_lettered_once_for_all_attempts_of_its_occurrence(service: Service) -> None:
    unknown = later(command(), activity="payments.nothing")
    for attempt in (1, 2, 3):
        service.send(later(unknown, attempt=attempt, id=f"{unknown.id}-{attempt}"))
        service.settle()

    assert [(reply.outcome, reply.error, reply.mismatch) for reply in service.replies()] == [
        ("retry", "unknown_activity", True)
    ] * 3
    assert len(service.broker.records(DEAD)) == 1


def test_a_later_build_does_what_an_earlier_one_could_not(service: Service) -> None:
    service.send(later(command(), activity="payments.nothing"))
    service.settle()
    service.send(command(attempt=2))
    service.settle()

    assert service.outcomes() == ["retry:unknown_activity", "success"]
    assert service.bookings() == 1


@pytest.mark.parametrize("code", ["unknown_activity", "invalid_input"])
def test_no_handler_can_mean_a_code_of_the_workers_own(code: str) -> None:
    with pytest.raises(UsageError, match="the worker's own"):
        Rejected(code)


def test_an_undo_whose_fence_row_is_gone_is_refused_and_never_a_tombstone(service: Service) -> None:
    service.send(later(command(activity=refund), done=True))
    service.settle()
    service.send(later(command(activity=refund, attempt=2), done=True))
    service.settle()

    assert service.outcomes() == ["failure:forgotten"] * 2
    assert [row.tombstone for row in service.inbox()] == [False]


def test_an_unreadable_envelope_is_dead_lettered_and_the_partition_moves_on(service: Service) -> None:
    service.broker.append(Outgoing(topic=COMMANDS, key=b"o-2", value=b"{}", headers=(("ce_id", b"\xff"),)))
    service.send(command("o-2"))
    service.settle()
    assert service.outcomes() == ["success"]
    [dead] = service.broker.records(DEAD)
    assert dict(dead.headers)["dlq_reason"] == b"invalid_envelope"
    assert service.committed() == 2


def test_an_output_that_does_not_fit_the_contract_is_a_bug_and_no_refusal_and_leaves_nothing(service: Service) -> None:
    def wrong(ctx: Any, order: Any) -> Any:
        book(ctx, order)
        return object()

    service.behaviour = wrong
    service.send(command())
    service.settle()
    assert service.outcomes() == ["retry:invalid_output"]
    assert service.replies()[0].mismatch  # a bug of the handler spends no attempt: another build mends it
    assert service.bookings() == 0


def test_a_handler_that_commits_is_told_not_to_and_leaves_nothing(service: Service) -> None:
    def commits(ctx: Any, order: Any) -> Charged:
        book(ctx, order)
        ctx.session.commit()
        return Charged("no")

    service.behaviour = commits
    service.send(command())
    service.settle()
    assert service.outcomes() == ["retry:UsageError"]
    assert service.bookings() == 0


def test_a_handlers_own_messages_are_sent_with_its_commit_and_not_without(service: Service) -> None:
    def announces(ctx: Any, order: Any) -> Charged:
        outbox.add(ctx.session, "payments.events", {"order": order.id}, key=order.id, type="payment.charged")
        if order.id == "o-2":
            raise Rejected("no")
        return book(ctx, order)

    service.behaviour = announces
    service.send(command(), command("o-2"))
    service.settle(12)
    [record] = service.broker.records("payments.events")
    assert record.key == b"o-1"
    assert service.outbox_rows() == 0


def test_a_broken_database_stops_the_partition_and_is_tried_again(service: Service) -> None:
    real = service.engine.dialect.do_commit

    def down(connection: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    service.engine.dialect.do_commit = down  # type: ignore[method-assign,assignment]
    service.send(command())
    service.settle()
    assert (service.committed(), service.outcomes()) == (0, [])
    service.engine.dialect.do_commit = real  # type: ignore[method-assign]
    service.settle(60)
    assert service.outcomes() == ["success"]
    assert service.bookings() == 1
    assert service.committed() == 1


def rows(service: Service, table: Table) -> list[Any]:
    with service.engine.connect() as connection:
        return [row._asdict() for row in connection.execute(select(table))]


def test_a_dead_letter_whose_topic_is_missing_waits_in_the_database_and_the_partition_goes_on(service: Service) -> None:
    service.send(command(), body=b"{")
    service.broker.create_topic("test.replies")
    service.broker._auto_create = False
    service.settle(60)
    assert service.committed() == 1
    assert [row["aggregatetype"] for row in rows(service, outbox_table)] == [DEAD]
    service.broker.create_topic(DEAD)
    service.settle(60)
    [letter] = service.broker.records(DEAD)
    assert letter.value == b"{"
    assert rows(service, outbox_table) == []


def test_a_command_just_below_the_limit_does_not_stop_its_worker_when_its_dead_letter_is_too_large(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = MemoryProducer.send

    def small(self: MemoryProducer, record: Outgoing, acked: Acked) -> None:
        if record.topic == DEAD:
            acked(RejectedRecord("too large with its headers"))
        else:
            send(self, record, acked)

    monkeypatch.setattr(MemoryProducer, "send", small)
    service.send(command(), body=b"{" + b" " * 900_000)
    service.settle(120)
    assert service.committed() == 1
    [kept] = rows(service, outbox_quarantine_table)
    assert kept["aggregatetype"] == DEAD


def test_a_reply_whose_topic_cannot_exist_is_put_aside_and_the_next_commands_are_handled(service: Service) -> None:
    service.send(msgspec.structs.replace(command(), reply_to="no topic"), command("o-2"))
    service.settle(600)
    assert sorted(service.calls) == ["charge o-1", "charge o-2"]
    assert service.committed() == 2
    [kept] = rows(service, outbox_quarantine_table)
    assert (kept["aggregatetype"], "no topic can have that name" in kept["error"]) == ("no topic", True)
    assert rows(service, outbox_table) == []


def test_commands_that_nobody_can_read_are_stepped_over_with_one_dead_letter(service: Service) -> None:
    service.send(command())
    service.settle()
    service.broker.damage(service.broker.append(Outgoing(topic=COMMANDS, key=b"o-2", value=b"?")))
    service.send(command("o-2"))
    service.settle(120)
    [letter] = service.broker.records(DEAD)
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["dlq_reason"]) == (None, None, b"unreadable_batch")
    assert service.outcomes() == ["success", "success"]


def test_a_later_answer_follows_a_pending_one(service: Service) -> None:
    tokens: list[str] = []

    def ask_somebody(ctx: Any, order: Any) -> Charged:
        book(ctx, order)
        tokens.append(ctx.token)
        raise ReplyLater

    service.behaviour = ask_somebody
    service.send(command(), command())
    service.settle()
    assert set(service.outcomes()) == {"pending"}
    assert service.bookings() == 1, "what was written before ReplyLater is kept"
    with service.sessions.begin() as session:
        reply(session, tokens[0], Charged("c-9"))
    with service.sessions.begin() as session:
        reply(session, tokens[0], Charged("c-10"))
    service.settle(12)
    assert service.outcomes()[-1] == "success"
    assert service.outcomes().count("success") == 1
    assert service.body() == {"charge_id": "c-9"}
    assert service.replies()[-1].command_id == command().id


def test_a_later_answer_after_a_compensation_is_refused(service: Service) -> None:
    tokens: list[str] = []

    def ask_somebody(ctx: Any, order: Any) -> Charged:
        tokens.append(ctx.token)
        raise ReplyLater

    service.behaviour = ask_somebody
    service.send(command(), command(activity=refund))
    service.settle()
    with pytest.raises(NotAllowed), service.sessions.begin() as session:
        reply(session, tokens[0], Charged("c-9"))
    with pytest.raises(NotFound), service.sessions.begin() as session:
        reply(session, "payments/invoke/o-77/payments.charge")


def test_an_answer_that_comes_before_its_command_waits_for_one_is_tried_again(service: Service) -> None:
    tokens: list[str] = []
    ship = Activity("payments.ship", Order, Charged)

    def ask_somebody_quick(ctx: Any, order: Order) -> Charged:
        tokens.append(ctx.token)
        with pytest.raises(NotFound, match="not yet"), service.sessions.begin() as session:
            reply(session, ctx.token, Charged("c-9"))
        raise ReplyLater

    service.consumer.close()
    service.worker.handle(ship, transaction="manual")(ask_somebody_quick)
    service.connect()
    service.send(command(activity=ship, step="payments.ship"))
    service.settle()
    assert service.outcomes() == ["pending"]
    with service.sessions.begin() as session:
        reply(session, tokens[0], Charged("c-9"))
    service.settle(12)
    assert service.outcomes() == ["pending", "success"]


def test_an_attempt_that_ends_late_leaves_the_row_to_a_later_one(service: Service) -> None:
    reindex = Activity("payments.reindex", Order)

    def overtaken(ctx: Any, order: Order) -> None:
        with service.sessions.begin() as session:
            session.execute(update(inbox_table).values(attempt=2, invoke_id="later", invoke_outcome="unknown"))

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(overtaken)
    service.connect()
    service.send(command(activity=reindex, step="payments.reindex"))
    service.settle()

    with service.sessions() as session:
        row = session.execute(select(inbox_table)).one()
    assert (row.attempt, row.invoke_id, row.invoke_outcome) == (2, "later", "unknown")


def test_a_worker_that_lacks_what_another_one_has_begun_says_that_it_may_have_happened(service: Service) -> None:
    bombs: list[Bomb] = []
    reindex = Activity("payments.reindex", Order)

    def dies(ctx: Any, order: Order) -> None:
        bombs.append(Bomb(service, 1))
        raise Killed

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(dies)
    service.connect()
    service.send(command(activity=reindex, step="payments.reindex"))
    with pytest.raises(Killed):
        service.settle()
    bombs[0].defuse()
    service.consumer.close()
    service.clock.seconds += 60
    del service.worker._registrations[reindex.name]
    service.connect()
    service.settle()

    [answer] = service.replies()
    assert (answer.outcome, answer.mismatch, answer.effect) == ("retry", True, "unknown")
    assert [row.invoke_outcome for row in service.inbox()] == ["unknown"]


def test_a_manual_handler_resumes_at_its_last_heartbeat_and_its_exception_proves_nothing(service: Service) -> None:
    seen: list[Any] = []
    bombs: list[Bomb] = []
    reindex = Activity("payments.reindex", Order)

    def rebuild(ctx: Any, order: Order) -> None:
        seen.append(ctx.details)
        assert not ctx.session.in_transaction()
        ctx.heartbeat((ctx.details or 0) + 1)
        if len(seen) == 1:
            bombs.append(Bomb(service, 1))
            raise Killed
        if len(seen) == 2:
            raise ValueError("half done")

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(rebuild)
    service.connect()
    service.send(command(activity=reindex, step="payments.reindex"))
    with pytest.raises(Killed):
        service.settle()
    bombs[0].defuse()
    service.consumer.close()
    service.clock.seconds += 60
    service.connect()
    service.settle()
    assert seen == [None, 1]
    assert service.replies()[-1].outcome == "retry"
    assert service.replies()[-1].effect == "unknown"
    service.send(command(activity=reindex, step="payments.reindex", attempt=2))
    service.settle()
    assert seen == [None, 1, 2]
    assert service.outcomes()[-1] == "success"
    assert service.outcomes().count("pending") >= 2


def test_records_of_one_key_run_in_order_and_a_full_partition_is_paused(service: Service) -> None:
    service.send(*[command(f"o-{n % 7}", step=f"s{n}", attempt=1) for n in range(200)])
    service.settle(30)
    assert service.committed() == 200
    assert service.bookings() == 200
    for key in range(7):
        steps = [r.step for r in service.replies() if r.saga_id == f"o-{key}"]
        assert steps == [f"s{n}" for n in range(200) if n % 7 == key]


def test_rows_beyond_the_horizon_are_swept(service: Service) -> None:
    service.send(command(), command("o-2"))
    service.settle()
    with service.engine.begin() as connection:
        connection.execute(
            update(inbox_table).where(inbox_table.c.saga_key.like("%/o-1/%")).values(updated_at=past(days=15))
        )
    assert service.worker.sweep(service.runner) == 1
    assert len(service.inbox()) == 1


def test_a_wrong_registration_is_a_sentence() -> None:
    worker = Worker("payments", sessions=sessionmaker())
    with pytest.raises(ContractError, match="stock"):
        worker.handle(Activity("stock.reserve", Order))
    worker.handle(charge)(lambda ctx, order: Charged("c"))
    with pytest.raises(ContractError, match="already"):
        worker.handle(charge)

    async def coroutine(ctx: Any, order: Order) -> Charged:
        return Charged("c")

    with pytest.raises(ContractError, match="plain function"):
        Worker("payments", sessions=sessionmaker()).handle(charge)(coroutine)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sessionmaker"):
        Worker("payments", sessions="sqlite://")  # type: ignore[call-overload]


def test_a_broker_that_goes_away_is_read_again_when_it_is_back(service: Service) -> None:
    service.settle(1)
    service.broker.down = True
    service.settle(3)
    service.broker.down = False
    service.send(command())
    service.settle(12)
    assert service.outcomes() == ["success"]


def test_a_topic_that_was_never_there_is_a_configuration_error(service: Service) -> None:
    service.broker = MemoryBroker(auto_create=False)
    service.connect()
    with pytest.raises(ConfigError, match=r"payments\.commands"):
        service.settle()


def test_a_second_worker_takes_over_partitions_and_nothing_is_done_twice(service: Service) -> None:
    service.send(*[command(f"o-{n}") for n in range(30)])
    service.loop.step()
    first = service.loop
    service.connect()
    for _ in range(6):
        service.settle(1)
        first.step()
    service.send(*[command(f"o-{n}") for n in range(30, 60)])
    for _ in range(6):
        service.settle(1)
        first.step()
    assert service.bookings() == 60
    assert set(service.outcomes()) == {"success"}
    assert service.committed() == 60


def test_an_edited_input_is_a_new_attempt_and_old_copies_of_the_command_change_nothing(service: Service) -> None:
    service.behaviour = lambda ctx, order: book(ctx, order) if order.total < 100 else _refuse()
    service.send(command(), body={"id": "o-1", "total": 100})
    service.settle()
    service.send(command(attempt=2), body={"id": "o-1", "total": 1})
    service.send(command(), command(attempt=2), body={"id": "o-1", "total": 100})
    service.settle()
    assert service.outcomes() == ["failure:too_much", "success", "failure:superseded", "success"]
    assert service.balance() == 1


def _refuse() -> Charged:
    raise Rejected("too_much")
