"""The reply that is made of a handler's outcome."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from segue.activities.outcome import Answered, reply_to
from segue.ids import reply_id
from segue.outbox.message import message_of
from segue.topics.envelope import Command, Reply
from tests.unit.activities.kit import command, later

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
PASSED_ON = (("traceparent", "00-aa-bb-01"), ("tracestate", "x=1"), ("baggage", "y=2"))


@pytest.mark.parametrize("sent", [command(), later(command("ü"), subject="s-1", passed_on=PASSED_ON)])
@pytest.mark.parametrize(
    "answered",
    [
        Answered(outcome="success", body=b"{}"),
        Answered(outcome="failure", code="no", effect="unknown"),
        Answered(outcome="retry", code="busy", retry_after=1.5),
        Answered(outcome="pending"),
    ],
)
def test_the_row_of_a_reply_is_the_row_of_its_envelope(sent: Command, answered: Answered) -> None:
    envelope = Reply(
        id=reply_id(sent.id, answered.outcome, 0),
        command_id=sent.id,
        outcome=answered.outcome,
        saga_id=sent.saga_id,
        error=answered.code,
        effect=answered.effect,
        retry_after=answered.retry_after,
        source="/payments",
        type="payments.charge.reply",
        saga_type=sent.saga_type,
        step=sent.step,
        action=sent.action,
        attempt="1",
        subject=sent.subject,
        passed_on=sent.passed_on,
    )
    row = reply_to(sent, answered, source="/payments", now=NOW)
    assert row == message_of(sent.reply_to, sent.saga_id, envelope.headers(), answered.body, NOW)
    assert dict(row.outgoing().headers) == dict(envelope.headers()) | {"ce_time": b"2026-11-21T12:30:00Z"}
