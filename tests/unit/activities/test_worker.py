from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.activities.kit import Service, charge, command, refund, sqlite_engine


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    engine = sqlite_engine(str(tmp_path / "payments.sqlite"))
    yield Service(engine)
    engine.dispose()


def test_effect_fence_and_reply_are_one_commit_and_the_reply_reaches_kafka(service: Service) -> None:
    service.send(command())
    service.settle()
    [reply] = service.replies()
    assert reply.outcome == "success"
    assert reply.command_id == command().id
    assert service.body() == {"charge_id": "o-1/payments.charge/invoke"}
    assert service.balance() == 1
    assert service.outbox_rows() == 0
    assert service.committed() == 1


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
    service.undo_behaviour = lambda ctx, undo: seen.append((undo.input.id, undo.output.charge_id))
    service.send(command(), command(activity=refund))
    service.settle()
    assert service.outcomes() == ["success", "success"]
    assert seen == [("o-1", "c-1")]
    assert charge.name != refund.name
