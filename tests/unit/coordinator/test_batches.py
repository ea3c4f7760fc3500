"""The messages of one transaction in one row: whatever repeats in them, they come back as they were."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from segue.coordinator.batches import check_messages, pack_messages, unpack_messages
from segue.ids import derive
from segue.outbox.message import Message

MOMENT = datetime(2026, 11, 21, tzinfo=UTC)


def message(n: int, *, saga: str | None, key: str, saga_key: str | None, correlation: str | None) -> Message:
    return Message(
        id=derive(str(n)),
        aggregatetype="payments.commands",
        aggregateid=key,
        type="payments.charge",
        payload=b"{}",
        created_at=MOMENT,
        saga_id=saga,
        saga_key=saga_key,
        correlation_id=correlation,
    )


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("saga", "key", "saga_key", "correlation"),
    list(product([None, "s", "s{n}"], ["k", "s{n}", "segue/s{n}/a"], [None, "segue/s{n}/a", "s{n}"], [None, "s{n}"])),
)
def test_messages_come_back_from_their_row(
    saga: str | None, key: str, saga_key: str | None, correlation: str | None, size: int
) -> None:
    def filled(text: str | None, n: int) -> str | None:
        return None if text is None else text.replace("{n}", str(n))

    messages = [
        message(
            n,
            saga=filled(saga, n),
            key=key.replace("{n}", str(n)),
            saga_key=filled(saga_key, n),
            correlation=filled(correlation, n),
        )
        for n in range(size)
    ]
    assert unpack_messages(pack_messages(messages)) == messages


def test_what_is_the_id_of_the_saga_in_each_message_is_written_once() -> None:
    def written(correlation: str) -> int:
        messages = [
            message(n, saga=f"saga-{n}", key=f"key-{n}", saga_key=None, correlation=correlation.format(n=n))
            for n in range(50)
        ]
        return len(check_messages(messages))

    assert written("other-{n}") - written("saga-{n}") > 50 * len("saga-")
