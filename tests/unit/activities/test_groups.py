"""Commands that share a transaction: what each of them does and is answered is what it would be alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segue.activities import Rejected, Undo, pace
from segue.activities.handlers import Prepared, Reader
from segue.topics.broker import Record
from tests.unit.activities.kit import (
    COORDINATOR,
    DEAD,
    Booking,
    Charged,
    Order,
    Service,
    book,
    charge,
    command,
    memory_engine,
    past,
    refund,
)

FOUR = ["o-1", "o-2", "o-3", "o-4"]


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def commits(service: Service) -> list[int]:
    """Counts the transactions that are committed with an effect in them."""
    counted: list[int] = []
    dialect: Any = service.engine.dialect
    real, insert = dialect.do_commit, Counter[str]()

    def do_commit(connection: Any) -> None:
        booked = insert.pop("booking", 0)
        real(connection)
        if booked:
            counted.append(booked)

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        insert["booking"] += statement.startswith("INSERT INTO booking")
        execute(cursor, statement, parameters, context)

    execute = dialect.do_execute
    dialect.do_commit, dialect.do_execute = do_commit, do_execute
    return counted


def raising(order: str, error: BaseException, *, flush: bool = True) -> Callable[[Any, Order], Charged]:
    """A handler that books, and then raises for one order."""

    def behave(ctx: Any, value: Order) -> Charged:
        charged = book(ctx, value)
        if flush:
            ctx.session.flush()
        if value.id == order:
            raise error
        return charged

    return behave


def test_commands_that_wait_together_share_a_commit_and_each_is_answered(service: Service) -> None:
    counted = commits(service)
    service.send(*map(command, FOUR))
    service.settle()
    assert counted == [4]
    assert service.outcomes() == ["success"] * 4
    assert {reply.command_id for reply in service.replies()} == {command(order).id for order in FOUR}
    assert [service.balance(order) for order in FOUR] == [1] * 4
    assert (service.committed(), service.outbox_rows()) == (4, 0)


def test_groups_grow_with_success(service: Service) -> None:
    counted = commits(service)
    for start in (0, 100, 200):
        service.send(*[command(f"o-{start + n}") for n in range(16)])
        service.settle()
    assert counted == [4, 8, 4, 16, 16]


def test_a_command_alone_does_not_wait_for_company(service: Service) -> None:
    service.send(command())
    service.loop.step()
    service.loop.step()
    assert service.balance() == 1


def test_duplicates_in_one_group_have_one_effect_and_the_same_reply(service: Service) -> None:
    service.send(command(), command(), command("o-2"), command())
    service.settle()
    assert sorted(service.calls) == ["charge o-1", "charge o-2"]
    assert service.outcomes() == ["success"] * 4
    assert len({(record.value, record.headers) for record in service.wire() if record.key == b"o-1"}) == 1


def test_do_and_undo_in_one_group_run_in_their_order(service: Service) -> None:
    counted = commits(service)
    service.send(command(), command(activity=refund))
    service.settle()
    assert counted == [2]
    assert service.calls == ["charge o-1", "refund o-1"]
    assert (service.balance(), service.bookings()) == (0, 2)
    service.send(command(attempt=2), command(activity=refund))
    service.settle()
    assert service.outcomes() == ["success", "success", "failure:compensated", "success"]
    assert (service.balance(), service.bookings()) == (0, 2)


def test_undo_before_do_in_one_group_refuses_the_do(service: Service) -> None:
    service.send(command(activity=refund), command(), command("o-2"))
    service.settle()
    assert service.calls == ["charge o-2"]
    assert sorted(service.outcomes()) == ["failure:compensated", "success", "success"]
    [row] = [row for row in service.inbox() if row.saga_key.startswith(f"{COORDINATOR}/o-1/")]
    assert row.tombstone


def test_a_rejection_in_a_group_undoes_its_own_effect_and_nobody_elses(service: Service) -> None:
    service.behaviour = raising("o-2", Rejected("insufficient_funds"))
    service.send(*map(command, FOUR))
    service.settle()
    assert sorted(service.outcomes()) == ["failure:insufficient_funds", "success", "success", "success"]
    assert [service.balance(order) for order in FOUR] == [1, 0, 1, 1]
    assert service.outbox_rows() == 0


def below_sqlalchemy(ctx: Any, value: Order) -> None:
    """Books through the driver's own cursor, of which no hook hears."""
    cursor = ctx.session.connection().connection.cursor()
    cursor.execute('INSERT INTO booking ("order", amount) VALUES (?, ?)', (value.id, value.total))
    cursor.close()


@pytest.mark.parametrize("others", [0, 3])
def test_what_a_handler_wrote_with_the_drivers_own_cursor_goes_with_its_rejection(
    service: Service, others: int
) -> None:
    def behave(ctx: Any, value: Order) -> Charged:
        below_sqlalchemy(ctx, value)
        if value.id == "o-1":
            raise Rejected("no")
        return Charged("c")

    service.behaviour = behave
    for _ in range(3):
        service.send(*map(command, FOUR[: others + 1]))
        service.settle()
    assert service.outcomes().count("failure:no") == 3
    assert service.outcomes().count("success") == 3 * others
    assert [service.balance(order) for order in FOUR] == [0, *[1] * others, *[0] * (3 - others)]


@pytest.mark.parametrize("wary", [False, True])
def test_an_output_that_does_not_fit_takes_back_what_was_written_below_sqlalchemy(service: Service, wary: bool) -> None:
    def behave(ctx: Any, value: Order) -> Any:
        below_sqlalchemy(ctx, value)
        return object() if value.id == "o-2" else Charged("c")

    service.behaviour = behave
    if wary:
        service.loop._pace.rejected(charge.name)
    service.send(*map(command, FOUR))
    service.settle()
    assert Counter(service.outcomes()) == {"retry:invalid_output": 1, "success": 3}
    assert [service.balance(order) for order in FOUR] == [1, 0, 1, 1]


def test_while_an_activity_rejects_its_commands_still_share_a_transaction(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WARY", 6)
    service.behaviour = raising("o-2", Rejected("no"), flush=False)
    service.send(*map(command, FOUR))
    service.settle()
    service.send(command("o-9"))
    service.settle()
    counted = commits(service)
    for start in range(10, 50, 4):
        service.behaviour = raising(f"o-{start}", Rejected("no"), flush=False)
        service.calls.clear()
        service.send(*[command(f"o-{start + n}") for n in range(4)])
        service.settle()
        assert len(service.calls) == 4, "none of them ran twice: each rejection renews the caution"
    assert max(counted) == 3
    assert sum(counted) == 30


def test_after_a_rejection_with_an_effect_the_next_ones_are_undone_within_the_group(service: Service) -> None:
    service.behaviour = raising("o-2", Rejected("no"))
    service.send(*map(command, FOUR))
    service.settle()
    service.send(command("o-5"))
    service.settle()
    service.calls.clear()
    counted = commits(service)
    service.behaviour = raising("o-7", Rejected("no"))
    service.send(command("o-6"), command("o-7"))
    service.settle()
    assert service.calls == ["charge o-6", "charge o-7"]
    assert counted == [2], "both inserts were in one transaction, the second one behind a savepoint"
    assert (service.balance("o-6"), service.balance("o-7")) == (1, 0)


@pytest.mark.parametrize("flush", [True, False])
def test_a_poison_command_in_a_group_is_answered_alone_and_the_others_are_done_once(
    service: Service, flush: bool
) -> None:
    service.behaviour = raising("o-3", KeyError("account"), flush=flush)
    service.send(*map(command, FOUR))
    service.settle()
    assert sorted(service.outcomes()) == ["retry:KeyError", "success", "success", "success"]
    assert [service.balance(order) for order in FOUR] == [1, 1, 0, 1]
    assert service.bookings() == 3


def test_a_handler_that_runs_again_finds_its_input_as_it_was_sent(service: Service) -> None:
    seen: list[int] = []

    def behave(ctx: Any, order: Order) -> Charged:
        seen.append(order.total)
        object.__setattr__(order, "total", order.total + 1)
        return raising("o-3", KeyError("account"))(ctx, order)

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.settle()
    assert len(seen) > len(FOUR), "the group was run one by one"
    assert set(seen) == {1}


@pytest.mark.parametrize("leave", [SystemExit, KeyError])
def test_whatever_is_raised_in_a_group_the_worker_goes_on(service: Service, leave: type[BaseException]) -> None:
    service.behaviour = raising("o-1", leave("x"))
    service.send(*map(command, FOUR))
    service.settle()
    assert service.outcomes().count("success") == 3
    assert service.committed() == 4


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "begin_nested"])
def test_a_handler_that_ends_the_groups_transaction_spoils_only_its_own_command(service: Service, end: str) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        charged = book(ctx, order)
        if order.id == "o-2":
            getattr(ctx.session, end)()
        return charged

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.settle()
    assert sorted(service.outcomes()) == ["retry:UsageError", "success", "success", "success"]
    assert [service.balance(order) for order in FOUR] == [1, 0, 1, 1]


def test_a_handler_may_use_savepoints_of_its_own_in_a_group(service: Service) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        with ctx.session.begin_nested():
            return book(ctx, order)

    service.behaviour = behave
    counted = commits(service)
    service.send(*map(command, FOUR))
    service.settle()
    assert (counted, service.outcomes()) == ([4], ["success"] * 4)


def test_a_handler_finds_no_object_that_another_one_has_loaded_and_sees_what_it_wrote(service: Service) -> None:
    seen: list[tuple[int, int]] = []

    def behave(ctx: Any, order: Order) -> Charged:
        loaded = len(ctx.session.identity_map) + len(ctx.session.new)
        seen.append((loaded, ctx.session.connection().exec_driver_sql("SELECT count(*) FROM booking").scalar_one()))
        return book(ctx, order)

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.settle()
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_handler_that_forgets_its_session_loses_no_write_of_another(service: Service) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        ctx.session.expunge_all()
        return book(ctx, order)

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.settle()
    assert service.bookings() == 4


def failing_commits(service: Service, times: int) -> list[str]:
    """The next so many commits with a booking fail as a lost serialisation does."""
    dialect: Any = service.engine.dialect
    failed: list[str] = []
    commit, execute, booked = dialect.do_commit, dialect.do_execute, [False]

    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        booked[0] |= statement.startswith("INSERT INTO booking")
        execute(cursor, statement, parameters, context)

    def do_commit(connection: Any) -> None:
        effect, booked[0] = booked[0], False
        if effect and len(failed) < times:
            failed.append("database is locked")
            raise sqlite3.OperationalError("database is locked")
        commit(connection)

    dialect.do_commit, dialect.do_execute = do_commit, do_execute
    return failed


@pytest.mark.parametrize(("times", "groups"), [(1, [4]), (2, [1, 2, 1])])
def test_a_group_that_loses_a_race_is_tried_again_and_then_made_shorter(
    service: Service, times: int, groups: list[int]
) -> None:
    failed = failing_commits(service, times)
    counted = commits(service)
    service.send(*map(command, FOUR))
    service.settle()
    assert len(failed) == times
    assert service.bookings() == 4
    assert service.outcomes() == ["success"] * 4
    assert counted == groups


def test_while_the_database_is_in_trouble_nothing_is_lost_and_a_key_keeps_its_order(service: Service) -> None:
    failed = failing_commits(service, 4)
    service.send(command(), command("o-2"), command(activity=refund), command("o-3"))
    service.settle(60)
    assert len(failed) == 4
    assert [call for call in service.calls if call.endswith("o-1")][-2:] == ["charge o-1", "refund o-1"]
    assert service.outcomes() == ["success"] * 4
    assert (service.balance(), service.bookings(), service.committed()) == (0, 4, 4)


def test_a_group_that_takes_too_long_ends_early_and_the_rest_follows(service: Service) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        service.clock.seconds += 0.06
        return book(ctx, order)

    service.behaviour = behave
    counted = commits(service)
    service.send(*map(command, FOUR))
    service.settle()
    assert counted[0] == 2
    assert sorted(service.calls) == [f"charge {order}" for order in FOUR], "none is begun twice"
    assert service.outcomes() == ["success"] * 4


def test_a_command_that_was_not_begun_is_not_read_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes | None] = []
    prepare = Reader.prepare

    def counted(self: Reader, record: Record) -> Prepared:
        read.append(record.key)
        return prepare(self, record)

    monkeypatch.setattr(Reader, "prepare", counted)

    def behave(ctx: Any, order: Order) -> Charged:
        service.clock.seconds += 0.06
        return book(ctx, order)

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.settle()
    assert service.outcomes() == ["success"] * 4
    assert len(read) == len(set(read)) == len(FOUR)


def test_a_command_that_was_not_begun_leaves_no_row(service: Service) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        service.clock.seconds += 1
        return book(ctx, order)

    service.behaviour = behave
    service.send(*map(command, FOUR))
    service.loop.step()
    assert len(service.inbox()) == 1
    service.settle()
    assert len(service.inbox()) == 4


def test_a_command_from_beyond_the_horizon_leaves_no_row_and_harms_no_group(service: Service) -> None:
    service.send(command(), command("o-2", sent=past(days=30)), command("o-3"))
    service.settle()
    assert service.outcomes() == ["success", "success"]
    assert len(service.broker.records(DEAD)) == 1
    assert sorted(row.saga_key.split("/")[1] for row in service.inbox()) == ["o-1", "o-3"]


def test_an_undecodable_command_in_a_group_is_answered_and_dead_lettered(service: Service) -> None:
    service.send(command())
    service.send(command("o-2"), body=b"{")
    service.send(command("o-3"))
    service.settle()
    assert sorted(service.outcomes()) == ["retry:invalid_input", "success", "success"]
    assert len(service.broker.records(DEAD)) == 1
    assert service.committed() == 3


def test_a_handler_registered_as_single_never_shares(service: Service) -> None:
    del service.worker._registrations[charge.name]
    service.worker.handle(charge, transaction="single")(book)
    service.consumer.close()
    service.connect()
    counted = commits(service)
    service.send(*map(command, FOUR))
    service.settle()
    assert counted == [1, 1, 1, 1]


def test_what_cannot_share_waits_for_what_precedes_it_with_the_same_key(service: Service) -> None:
    def take_back(ctx: Any, undo: Undo[Order, Charged]) -> None:
        service.calls.append(f"refund {undo.input.id}")
        ctx.session.add(Booking(order=undo.input.id, amount=-1))

    del service.worker._registrations[refund.name]
    service.worker.handle(refund, transaction="single")(take_back)
    service.consumer.close()
    service.connect()
    service.send(command(), command(activity=refund), command("o-2"))
    service.settle()
    calls = [call for call in service.calls if call.endswith("o-1")]
    assert calls == ["charge o-1", "refund o-1"]
    assert (service.balance(), service.committed()) == (0, 3)


class Queue:
    """A runner whose jobs run when the test says so, in the order that it says."""

    def __init__(self, service: Service) -> None:
        self.real: Any = service.runner
        self.jobs: list[Callable[[], None]] = []
        self.transact = self.real.transact

    def submit(self, job: Any, done: Any) -> None:
        self.jobs.append(lambda: self.real.submit(job, done))

    def wait(self, timeout: float) -> None:
        """Nothing to wait for."""


def test_commands_of_one_key_are_never_spread_over_groups_that_run_at_once(service: Service) -> None:
    queue = Queue(service)
    service.loop._runner = queue  # type: ignore[assignment]
    service.send(command(), command(), command(), command(attempt=2), command(activity=refund))
    service.loop.step()
    service.loop.step()
    assert len(queue.jobs) == 1, "the fifth waits for the four that fill the first group"
    queue.jobs.pop()()
    service.loop.step()
    [last] = queue.jobs
    last()
    service.loop.step()
    assert service.calls == ["charge o-1", "refund o-1"]
