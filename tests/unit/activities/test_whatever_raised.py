"""Whatever a handler does, its slot comes back, it is logged with its traceback, and its command is answered."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from greenlet import GreenletExit
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from segue.activities import Activity, LoopOptions, RetryLater, Worker, WorkerOptions
from segue.activities.runner import AsyncRunner, Runner, ThreadRunner
from segue.errors import UsageError
from segue.observe import Logging
from tests.unit.activities.kit import (
    DEAD,
    Bomb,
    Booking,
    Charged,
    Killed,
    Order,
    Service,
    book,
    charge,
    command,
    memory_engine,
    sqlite_engine,
)


class PanicException(BaseException):
    """As pyo3 raises it where Rust code panics."""


EVERYTHING: list[type[BaseException]] = [
    PanicException,
    GreenletExit,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
    type("Ärger\nx" * 40, (BaseException,), {}),
]
everything = pytest.mark.parametrize("leave", EVERYTHING, ids=lambda kind: kind.__name__[:20].encode("unicode_escape"))


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    service = Service(engine)
    service.worker.observer = Logging()
    service.consumer.close()
    service.connect()
    yield service
    engine.dispose()


def raising(leave: type[BaseException], order: str = "o-1") -> Callable[[Any, Order], Charged]:
    def behave(ctx: Any, value: Order) -> Charged:
        charged = book(ctx, value)
        ctx.session.flush()
        if value.id == order:
            raise leave("tea\npot")
        return charged

    return behave


@everything
def test_it_is_answered_and_logged_and_the_next_command_is_done(
    service: Service, leave: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    service.behaviour = raising(leave)
    service.send(command(), command("o-2"))
    service.settle()
    assert sorted(outcome.partition(":")[0] for outcome in service.outcomes()) == ["retry", "success"]
    assert [service.balance(order) for order in ("o-1", "o-2")] == [0, 1]
    assert service.committed() == 2
    [logged] = [record for record in caplog.records if "worker.handler.failed" in record.getMessage()]
    lines = logged.getMessage().splitlines()
    assert logged.levelno == logging.WARNING
    assert "activity=payments.charge saga=o-1 step=payments.charge attempt=1" in lines[0]
    assert any('raise leave("tea' in line for line in lines)
    assert all(line.startswith("  | ") for line in lines[1:]), "no text of an exception looks like an event"


@everything
def test_a_handler_without_a_transaction_proves_nothing(service: Service, leave: type[BaseException]) -> None:
    reindex = Activity("payments.reindex", Order)

    def rebuild(ctx: Any, order: Order) -> None:
        raise leave("half done")

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(rebuild)
    service.connect()
    service.send(command(activity=reindex, step="payments.reindex"))
    service.settle()
    [reply] = service.replies()
    assert (reply.outcome, reply.effect) == ("retry", "unknown")


def test_a_contract_whose_decoding_panics_costs_its_record_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = service.loop._reader.prepare

    def prepare(record: Any) -> Any:
        if record.key == b"o-1":
            raise PanicException("called `Option::unwrap()` on a `None` value")
        return real(record)

    monkeypatch.setattr(service.loop._reader, "prepare", prepare)
    service.send(command(), command("o-2"))
    service.settle()
    assert service.outcomes() == ["success"]
    assert len(service.broker.records(DEAD)) == 1


def test_a_text_that_cannot_be_told_is_answered_all_the_same(service: Service) -> None:
    class Shy(BaseException):
        def __str__(self) -> str:
            raise PanicException

    service.behaviour = raising(Shy)
    service.send(command())
    service.settle()
    assert service.outcomes() == ["retry:Shy"]


@pytest.mark.parametrize("after", [timedelta(seconds=-1), timedelta(days=367), timedelta.max])
def test_a_wish_to_wait_that_coordinators_would_ignore_is_refused(after: timedelta) -> None:
    with pytest.raises(UsageError, match="of RetryLater: allowed is 0 to 366 days"):
        RetryLater(after)


@pytest.mark.parametrize("wrong", [{"after": 5}, {"code": "no\x00code"}, {"code": "x" * 300}])
def test_a_wrong_retry_later_is_a_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="of RetryLater must be"):
        RetryLater(**{"after": timedelta(seconds=1), **wrong})


def test_a_killed_process_answers_nothing(service: Service) -> None:
    def behave(ctx: Any, order: Order) -> Charged:
        Bomb(service, 1)
        raise Killed

    service.behaviour = behave
    service.send(command())
    with pytest.raises(Killed):
        service.settle()
    assert service.outcomes() == []


# --- threads and event loops


def settle(service: Service, runner: Runner, loop: Any, answers: int) -> None:
    """Drive until so many answers are there: a slot that is lost leaves it waiting."""
    for _ in range(1000):
        loop.step()
        if len(service.outcomes()) >= answers:
            return
        service.clock.seconds += 0.1
        runner.wait(0.05)
    raise AssertionError(f"after a thousand turns there are {service.outcomes()}")


ONE_SLOT = WorkerOptions(loop=LoopOptions(concurrency=1, commit_interval=0.0))


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Service]:
    engine = sqlite_engine(str(tmp_path / "service.sqlite"))
    service = Service(engine)
    service.consumer.close()
    yield service
    engine.dispose()


@everything
def test_a_thread_that_a_handler_would_end_answers_and_goes_on(filed: Service, leave: type[BaseException]) -> None:
    worker = Worker("payments", sessions=filed.sessions, options=ONE_SLOT, clock=filed.clock)
    worker.handle(charge, transaction="single")(raising(leave))
    runner = ThreadRunner(filed.sessions, 1)
    loop = worker.loop(filed.broker.consumer("payments"), filed.broker.producer(), runner=runner)
    loop.start()
    filed.send(command(), command("o-2"), command("o-3"))
    settle(filed, runner, loop, 3)
    assert sorted(outcome.partition(":")[0] for outcome in filed.outcomes()) == ["retry", "success", "success"]
    runner.close()


@pytest.mark.parametrize("lines", range(0, 400, 40))
def test_an_exception_that_another_thread_throws_in_anywhere_costs_no_slot(filed: Service, lines: int) -> None:
    """As libraries that stop a function after a time do: it comes up wherever the thread is by then."""
    left = [lines, 1]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0 and left[1]:
            left[1] = 0
            sys.settrace(None)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(threading.get_ident()), ctypes.py_object(PanicException)
            )
        return trace

    def behave(ctx: Any, order: Order) -> Charged:
        if order.id == "o-1" and left[1]:
            sys.settrace(trace)
        return book(ctx, order)

    worker = Worker("payments", sessions=filed.sessions, options=ONE_SLOT, clock=filed.clock)
    worker.handle(charge, transaction="single")(behave)
    runner = ThreadRunner(filed.sessions, 1)
    loop = worker.loop(filed.broker.consumer("payments"), filed.broker.producer(), runner=runner)
    loop.start()
    filed.send(command(), command("o-2"))
    settle(filed, runner, loop, 2)
    answered = {reply.command_id: reply.outcome for reply in filed.replies()}
    assert answered[command("o-2").id] == "success"
    assert filed.balance() == (answered[command().id] == "success")
    runner.close()


async def leave_by_a_task() -> None:
    async def ending() -> None:
        raise SystemExit

    asyncio.get_running_loop().create_task(ending())
    await asyncio.sleep(0)


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


async def cancel_everybody() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


@pytest.mark.parametrize("act", [leave_by_a_task, stop_the_loop, cancel_everybody, *EVERYTHING[:-1]])
def test_an_event_loop_outlives_what_its_handlers_do(filed: Service, tmp_path: Path, act: Any) -> None:
    engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'service.sqlite'}")
    sessions = async_sessionmaker(engine)
    worker = Worker("payments", sessions=sessions, options=ONE_SLOT, clock=filed.clock)

    async def behave(ctx: Any, order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=1))
        if order.id == "o-1":
            if isinstance(act, type):
                raise act("x")
            await act()
        return Charged("c")

    worker.handle(charge, transaction="single")(behave)
    runner = AsyncRunner(sessions)
    loop = worker.loop(filed.broker.consumer("payments"), filed.broker.producer(), runner=runner)
    loop.start()
    filed.send(command(), command("o-2"), command("o-3"))
    settle(filed, runner, loop, 3)
    assert filed.outcomes().count("success") >= 2
    runner.close()


def test_a_task_that_is_cancelled_before_it_began_gives_its_slot_back(filed: Service, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'service.sqlite'}")
    runner = AsyncRunner(async_sessionmaker(engine))
    ended: list[Any] = []

    def cancel() -> None:
        for task in asyncio.all_tasks(runner._loop):
            task.cancel()

    def hold() -> None:
        runner.submit(lambda desk: None, ended.append)
        runner._loop.call_soon(cancel)  # finds the task, which has not begun

    runner._loop.call_soon_threadsafe(hold)
    while not ended:
        runner.wait(0.05)
    assert ended[0].value is None
    runner.close()
