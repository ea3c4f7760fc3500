"""A handler that falls silent: whoever gets its command again takes over, and the old one has nothing to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from segue.activities import Rejected
from segue.activities.heartbeat import Heartbeats
from segue.activities.partitions import PartitionWork, Task
from segue.contract import Activity
from segue.outbox.fences import SqlServiceRows
from segue.outbox.inbox import lock_fence, store_begun
from segue.topics.broker import Record
from tests.unit.activities.kit import Order, Service, command, later, memory_engine

reindex = Activity("payments.reindex", Order)


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def sent(**more: Any) -> Any:
    return later(command(activity=reindex, step="payments.reindex"), heartbeat=30.0, **more)


def test_the_answer_of_a_delivery_that_was_taken_over_is_refused(service: Service) -> None:
    seen: list[Any] = []

    def rebuild(ctx: Any, order: Order) -> None:
        seen.append(ctx.details)
        ctx.heartbeat({"done": 3})
        if len(seen) == 1:  # meanwhile another worker begins the same command
            with service.sessions() as session:
                rows = SqlServiceRows(session.connection())
                fence, _ = lock_fence(rows, "payments", ctx.command.key)
                assert fence.lease == 1
                store_begun(rows, "payments", ctx.command, fence)
                session.commit()
            ctx.heartbeat({"done": 99})

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(rebuild)
    service.connect()
    service.send(sent())
    service.settle()
    [row] = service.inbox()
    assert (row.invoke_reply, row.lease) == (None, 2)
    assert "success" not in service.outcomes()
    assert b"99" not in (row.details or b"")
    service.send(sent())
    service.settle()
    assert seen == [None, {"done": 3}]
    assert service.outcomes()[-1] == "success"
    assert service.committed() == 2


def test_a_worker_whose_own_handler_is_silent_takes_it_over_and_the_partition_goes_on(service: Service) -> None:
    seen: list[Any] = []

    def rebuild(ctx: Any, order: Order) -> None:
        seen.append(ctx.details)
        if len(seen) == 1:
            ctx.heartbeat("half")
            service.clock.seconds += 20
            service.send(sent())
            service.loop.step()
            assert seen == [None], "it has not been silent for long enough"
            service.clock.seconds += 15
            service.loop.step()
            assert seen == [None, "half"]
            service.settle()
            assert service.outcomes()[-1] == "success"
            assert service.committed() == 2, "whether the old one ever ends is of no consequence"
            ctx.heartbeat("nobody hears this")

    service.consumer.close()
    service.worker.handle(reindex, transaction="manual")(rebuild)
    service.connect()
    service.send(sent())
    service.settle()
    assert service.outcomes()[0] == "pending"
    assert len({reply.id for reply in service.replies()[1:]}) == 1, "the old one can only say what the new one said"
    assert service.inbox()[0].lease == 2
    service.send(command(step="other"))
    service.settle()
    assert service.committed() == 3


def test_a_code_that_the_protocol_has_too_is_the_handlers_own_if_it_says_so(service: Service) -> None:
    def refuse(ctx: Any, order: Order) -> Any:
        raise Rejected("expired" if order.id == "o-1" else "no")

    service.behaviour = refuse
    service.send(command("o-1"), command("o-2"))
    service.settle()
    assert {(reply.saga_id, reply.error, reply.rejected) for reply in service.replies()} == {
        ("o-1", "expired", True),
        ("o-2", "no", False),
    }


def record(offset: int, key: bytes = b"k") -> Record:
    return Record(topic="t", partition=0, offset=offset, key=key, value=b"", headers=(), timestamp_ms=0)


class Prepared:
    """As much of a prepared command as the bookkeeping looks at."""

    def __init__(self, id: str) -> None:
        self.command = self
        self.id = id


def begun(*ids: str) -> tuple[PartitionWork, list[Task]]:
    work = PartitionWork()
    tasks: list[Task] = []
    for offset, id in enumerate(ids):
        work.accept(record(offset))
        if not offset:
            first = work.next_ready(0.0)
            assert first is not None
            first.prepared = Prepared(id)  # type: ignore[assignment]
            tasks.append(first)
    return work, tasks


def test_a_repeated_command_runs_beside_a_silent_one_and_its_end_is_the_end_of_both() -> None:
    work, [old] = begun("c-1", "c-1", "c-2")
    assert work.next_ready(0.0) is None
    assert work.next_behind(lambda running, again: False, 0.0) is None
    again = work.next_behind(lambda running, again: running is old, 0.0)
    assert again is not None
    assert again.record.offset == 1
    again.prepared = Prepared("c-1")  # type: ignore[assignment]
    work.overtake(again)
    work.answered(again)
    work.delivered(again)
    assert (work.watermark, work.running) == (2, 1)
    following = work.next_ready(0.0)
    assert following is not None
    assert following.record.offset == 2
    work.answered(old)
    work.delivered(old)
    assert (work.watermark, work.running) == (2, 1)


def test_of_one_command_the_heartbeats_of_an_older_lease_are_dropped() -> None:
    beats = Heartbeats()
    prepared: Any = Prepared("c-1")
    beats.put(prepared, "new", 2)
    beats.put(prepared, "old", 1)
    assert [(beat.details, beat.lease) for beat in beats.due(10.0)] == [(b'"new"', 2)]
    assert beats.last("c-1") == 10.0
