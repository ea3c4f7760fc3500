"""What is composed of parts that were allowed is allowed, or the part is refused before anything is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from segue.activities import Activity, LoopOptions, Rejected, Worker, WorkerOptions
from segue.activities.outcome import MAX_DETAILS_BYTES
from segue.errors import UsageError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.testing.answers import success
from segue.testing.failures import SagaTestError
from segue.topics.admin import plan
from segue.topics.codec import Codecs, JsonCodec
from segue.topics.converter import Converter
from segue.topics.names import TopicNames
from tests.unit.activities.kit import DEAD, Booking, Charged, Order, Service, charge, command, memory_engine, refund

#: As long as a payload may be, with something to spare for its frame.
MOST = DEFAULT_LIMITS.payload_bytes - 100


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def booked(ctx: Any, charged: Charged) -> Charged:
    ctx.session.add(Booking(order="o-1", amount=1))
    return charged


def test_a_step_with_the_longest_input_and_the_longest_output_can_be_undone(service: Service) -> None:
    service.behaviour = lambda ctx, order: booked(ctx, Charged("c" * MOST))
    service.undo_behaviour = lambda ctx, undo: ctx.session.add(Booking(order="o-1", amount=-undo.input.total))
    order = {"id": "o" * MOST, "total": 1}
    service.send(command(), body=order)
    service.settle()
    undo = {"input": order, "output": {"charge_id": "c" * MOST}}
    service.send(command(activity=refund), body=undo)
    service.settle()
    assert service.outcomes() == ["success", "success"]
    assert service.balance() == 0
    assert not service.broker.records(DEAD)


def test_what_no_step_can_have_is_refused_by_its_undo_as_well(service: Service) -> None:
    service.send(command(activity=refund), body={"input": {"id": "o" * 3 * MOST, "total": 1}, "output": None})
    service.settle()
    assert service.calls == []
    assert len(service.broker.records(DEAD)) == 1


def test_composed_limits_hold_two_parts_at_their_limits() -> None:
    limits = Limits(payload_bytes=1000, depth=3, json_keys=5)
    deep = b"[[[1]]]"
    keyed = b'{"a":1,"b":2,"c":3,"d":4,"e":5}'
    raw = Codecs(limits=limits).decode("application/octet-stream", b"x" * 1000)
    longest = b'"%b"' % (b"y" * 998)
    for part in (deep, keyed, longest, raw):
        body = b'{"input":%b,"output":%b}' % (longest if part is raw else part, part)
        assert Codecs(limits=limits).composed().decode("application/json", body) == body
    for part in (b"[%b]" % deep, keyed.replace(b"}", b',"f":6}')):
        with pytest.raises(Exception, match=r"deeper|keys"):
            JsonCodec(limits).decode(part)


def test_topics_are_planned_for_what_is_composed() -> None:
    for spec in plan(TopicNames(coordinator="c"), ["payments"]):
        most = DEFAULT_LIMITS.composed.payload_bytes + DEFAULT_LIMITS.header_bytes
        assert int(spec.configs["max.message.bytes"]) > most


count = Activity("payments.count", Order, dict[str, int])


@pytest.mark.parametrize(
    ("activity", "output"), [(charge, Charged("c" * 3000)), (count, {f"k{n}": n for n in range(40)})]
)
def test_an_output_that_nobody_may_read_is_refused_and_rolled_back(
    service: Service, activity: Activity[Any, Any], output: Any
) -> None:
    limits = Limits(payload_bytes=2000, json_keys=30)
    service.consumer.close()
    options = WorkerOptions(limits=limits, loop=LoopOptions(commit_interval=0.0))
    service.worker = Worker("payments", sessions=service.sessions, options=options, clock=service.clock)
    service.worker.handle(activity)(lambda ctx, order: booked(ctx, output))
    service.connect()
    service.send(command(activity=activity))
    service.settle()
    assert service.outcomes() == ["retry:invalid_output"]
    assert service.balance() == 0


def test_the_kit_refuses_an_output_that_a_worker_would_refuse() -> None:
    with pytest.raises(SagaTestError, match="allowed are"):
        success(Charged("c" * 2 * MOST), charge, Converter())


@pytest.mark.parametrize(
    ("details", "kept"),
    [
        ("x" * (MAX_DETAILS_BYTES + 1), "were left out"),
        ("a\x00b", "ab"),
        (2**70, str(2**70)),
        ("\ud800", "?"),
        ({"balance": 3}, {"balance": 3}),
        (None, None),
    ],
)
def test_a_rejection_is_readable_whatever_its_details_are(service: Service, details: Any, kept: Any) -> None:
    def reject(ctx: Any, order: Any) -> Any:
        raise Rejected("no", "nul\x00 and half a \ud800 pair", details)

    service.behaviour = reject
    service.send(command())
    service.settle()
    [record] = service.wire()
    body = msgspec.json.decode(JsonCodec().decode(record.value or b""))
    assert body["details"] == kept or kept in body["details"]
    assert body["message"].startswith("nul and half")


@pytest.mark.parametrize("details", ["a\x00b", {"n": 2**64 - 1}])
def test_details_of_a_heartbeat_that_nobody_can_read_are_a_sentence(service: Service, details: Any) -> None:
    def beat(ctx: Any, order: Any) -> Any:
        with pytest.raises(UsageError, match="details of a heartbeat must be JSON"):
            ctx.heartbeat(details)
        return Charged("c")

    service.behaviour = beat
    service.send(command())
    service.settle()
    assert service.outcomes() == ["success"]
