"""`segue saga signal`: what becomes of a signal is said, as far as it can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from segue.cli import saga_signal
from segue.saga.inputs import SignalArrived
from segue.topics.envelope import Request
from tests.unit.cli.kit import Database, Played, Ran, completed, counter_saga, letter

Segue = Callable[..., Ran]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What was sent to Kafka, which is left out here."""
    return served(monkeypatch, lambda request: None)


def served(monkeypatch: pytest.MonkeyPatch, coordinator: Callable[[Request], None]) -> list[Request]:
    sent: list[Request] = []

    def send(client: Any, names: Any, request: Request, body: bytes, again: str) -> None:
        sent.append(request)
        coordinator(request)

    monkeypatch.setattr(saga_signal, "kafka", lambda run: None)
    monkeypatch.setattr(saga_signal, "send_request", send)
    monkeypatch.setattr(saga_signal, "TOLD_WITHIN", 0.0)
    return sent


def counting(saga_id: str = "counter-1", *signals: SignalArrived) -> Played:
    played = Played(saga_id, definition=counter_saga, input=1)
    for signal in signals:
        played.happen(signal)
    return played


def test_a_signal_that_waits_says_what_the_saga_waits_for(
    database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(request: Request) -> None:
        arrived = SignalArrived(name=request.name, payload=msgspec.Raw(b"5"), id=request.id, sender=request.source)
        database.put(counting("counter-1", arrived))

    [*_] = served(monkeypatch, take)
    ran = on_database("saga", "signal", "counter-1", "tock", "5", "--actor", "ann")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(
        "tock: it waits until the saga's code receives tock; now the saga waits for the signal tick"
    )
    shown = on_database("saga", "show", "counter-1", "--json").json["signals"]
    assert [(one["name"], one["status"], one["sender"], one["payload"]) for one in shown] == [
        ("tock", "waiting", "segue-cli/ann", 5)
    ]


def test_a_signal_that_nobody_has_taken_yet_is_sent_all_the_same(on_database: Segue, sent: list[Request]) -> None:
    ran = on_database("saga", "signal", "order-9", "decision", "true")
    assert (ran.code, ran.out) == (0, "decision: sent; no coordinator has taken it yet\n")
    assert [(one.saga_id, one.name, one.action) for one in sent] == [("order-9", "decision", "signal")]


def test_a_signal_to_a_saga_that_is_over_is_not_sent(
    database: Database, on_database: Segue, sent: list[Request]
) -> None:
    database.put(completed("order-3"))
    ran = on_database("saga", "signal", "order-3", "decision", "true")
    assert (ran.code, sent) == (5, [])
    assert "saga order-3 is completed: nobody receives the signal decision any more" in ran.err


def test_a_signal_under_the_same_id_has_the_same_message_id(on_database: Segue, sent: list[Request]) -> None:
    for _ in range(2):
        on_database("saga", "signal", "order-9", "decision", "true", "--id", "ann-1")
    assert sent[0].id == sent[1].id


def test_a_signal_that_is_a_dead_letter_says_why(
    database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: Request) -> None:
        row = letter(reason="invalid_signal", saga_id="counter-1", error_message="it does not fit")
        record = msgspec.structs.replace(row.record, headers=request.headers())
        database.letters(letter(reason="invalid_signal", saga_id="counter-1", error_message="no fit", record=record))

    database.put(counting())
    served(monkeypatch, refuse)
    ran = on_database("saga", "signal", "counter-1", "tick", '"five"')
    assert ran.code == 2
    assert "(invalid_signal): no fit" in ran.err


def test_a_name_that_can_not_be_a_signals_is_refused(on_database: Segue, sent: list[Request]) -> None:
    assert on_database("saga", "signal", "order-9", "no name", "1").code == 2
    assert sent == []
