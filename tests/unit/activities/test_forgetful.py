"""A worker without a database: what it remembers, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from segue.activities import Rejected, Worker, WorkerOptions
from segue.activities.loop import CommandLoop, LoopOptions
from segue.contract import Activity
from segue.errors import ConfigError, ContractError
from segue.topics.envelope import parse_reply
from segue.topics.memory import MemoryBroker
from tests.unit.activities.kit import REPLIES, FakeClock, Order, command, record_of, refund

notify = Activity("payments.notify", Order, str)


class Alone:
    """A worker without a database and a broker in memory."""

    def __init__(self) -> None:
        self.broker, self.clock = MemoryBroker(), FakeClock()
        self.calls: list[str] = []
        self.behaviour: Any = lambda ctx, order: f"told {order.id}"
        self.runner: Any = None
        self.start()

    def start(self) -> None:
        """A new process."""
        self.close()
        worker = Worker("payments", options=WorkerOptions(loop=LoopOptions(commit_interval=0.0)), clock=self.clock)

        @worker.handle(notify)
        def told(ctx: Any, order: Order) -> str:
            self.calls.append(order.id)
            return str(self.behaviour(ctx, order))

        self.runner = worker._runner()
        self.consumer = self.broker.consumer("payments")
        self.loop: CommandLoop = worker.loop(self.consumer, self.broker.producer(), runner=self.runner)
        self.loop.start()

    def close(self) -> None:
        if self.runner is not None:
            self.consumer.close()
            self.runner.close()

    def send(self, order: str = "o-1", attempt: int = 1) -> None:
        self.broker.append(record_of(command(order, activity=notify, attempt=attempt)))
        answered = len(self.broker.records(REPLIES))
        for _ in range(200):
            self.loop.step()
            self.clock.seconds += 0.5
            if self.loop.handling:
                self.runner.wait(1.0)
            elif len(self.broker.records(REPLIES)) > answered:
                return

    def outcomes(self) -> list[str]:
        replies = [parse_reply(record) for record in self.broker.records(REPLIES)]
        return [f"{reply.outcome}:{reply.error}" if reply.error else reply.outcome for reply in replies]


@pytest.fixture
def alone() -> Iterator[Alone]:
    made = Alone()
    yield made
    made.close()


def test_a_command_that_comes_again_is_handled_once_while_the_process_lives(alone: Alone) -> None:
    alone.send()
    alone.send()
    assert alone.outcomes() == ["success", "success"]
    assert alone.calls == ["o-1"]


def test_after_a_restart_it_is_handled_anew(alone: Alone) -> None:
    alone.send()
    alone.start()
    alone.send()
    assert alone.outcomes() == ["success", "success"]
    assert alone.calls == ["o-1", "o-1"]


def test_what_its_handlers_raise_proves_nothing(alone: Alone) -> None:
    def fails(ctx: Any, order: Order) -> str:
        raise (Rejected("no_such_address") if order.id == "o-2" else OSError("the line broke"))

    alone.behaviour = fails
    alone.send("o-1")
    alone.send("o-2")
    assert alone.outcomes() == ["retry:OSError", "failure:no_such_address"]
    assert [parse_reply(record).effect for record in alone.broker.records(REPLIES)] == ["unknown", "none"]


def test_it_has_no_session_and_says_so(alone: Alone) -> None:
    alone.behaviour = lambda ctx, order: ctx.session.execute("x")
    alone.send()
    [record] = alone.broker.records(REPLIES)
    assert b"this worker has no database, so there is no ctx.session" in (record.value or b"")


def test_it_undoes_nothing() -> None:
    worker = Worker("payments")
    with pytest.raises(ContractError, match=r"payments.refund undoes payments.charge.* needs a database"):
        worker.handle(refund)(lambda ctx, undo: None)
    worker.create_tables()
    with pytest.raises(ConfigError, match="give a sessionmaker of either kind"):
        Worker("payments", "sqlite://")  # type: ignore[call-overload]
