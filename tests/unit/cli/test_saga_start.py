"""`segue saga start` under an id: the same start again is well, another one says so, and nothing is sent for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from segue.cli import saga_start
from segue.cli.saga_start import Begun
from tests.unit.cli.kit import Database, Played, Ran, letter, segue
from tests.unit.saga.kit import Order

Segue = Callable[..., Ran]
#: What the coordinator does with a start.
Coordinator = Callable[[Begun], None]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Begun]:
    """What was sent to Kafka, which is left out here."""
    return served(monkeypatch, lambda begun: None)


def served(monkeypatch: pytest.MonkeyPatch, coordinator: Coordinator) -> list[Begun]:
    sent: list[Begun] = []

    def send(client: object, names: object, begun: Begun, _: object) -> None:
        sent.append(begun)
        coordinator(begun)

    monkeypatch.setattr(saga_start, "kafka", lambda run: None)
    monkeypatch.setattr(saga_start, "send_start", send)
    monkeypatch.setattr(saga_start, "REFUSED_WITHIN", 0.0)
    return sent


def text(order: Order) -> str:
    return msgspec.json.encode(order).decode()


def test_a_start_under_a_new_id_says_that_id(on_database: Segue, sent: list[Begun]) -> None:
    ran = on_database("saga", "start", "order", text(Order()), "--id", "order-1")
    assert (ran.code, ran.out, ran.err) == (0, "order-1\n", "")
    assert [begun.saga_id for begun in sent] == ["order-1"]


def test_the_same_start_again_is_sent_again(database: Database, on_database: Segue, sent: list[Begun]) -> None:
    database.put(Played("order-1"))
    ran = on_database("saga", "start", "order", text(Order()), "--id", "order-1")
    assert (ran.code, ran.out) == (0, "order-1\n")
    assert len(sent) == 1


def test_the_id_of_a_saga_of_another_type_ends_with_code_5_and_nothing_is_sent(
    database: Database, on_database: Segue, sent: list[Begun]
) -> None:
    database.put(Played("order-1"))
    ran = on_database("saga", "start", "delivery", text(Order()), "--id", "order-1")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == "error: saga order-1 is a 'order', not a 'delivery'\n"
    assert sent == []


def test_another_input_of_a_known_type_ends_with_code_5_and_nothing_is_sent(
    database: Database, on_database: Segue, sent: list[Begun]
) -> None:
    database.put(Played("order-1"))
    known = ("--set", "coordinator.sagas=tests.unit.saga.sagas")
    ran = on_database("saga", "start", "order", text(Order(id="other")), "--id", "order-1", *known)
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == "error: saga order-1 was started with another input\n"
    assert sent == []


def test_another_input_of_a_type_that_only_the_coordinator_knows_ends_with_code_5_when_that_refuses_it(
    database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(begun: Begun) -> None:
        record = msgspec.structs.replace(letter().record, headers=(("ce_id", begun.request_id.encode()),))
        refusal = letter(record=record, saga_id="order-1", reason="start_conflict", error_message="another input")
        database.letters(refusal)

    database.put(Played("order-1"))
    sent = served(monkeypatch, refuse)
    ran = on_database("saga", "start", "order", text(Order(id="other")), "--id", "order-1")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == "error: the start of order-1 was refused (start_conflict): another input\n"
    assert len(sent) == 1


def test_an_input_that_leaves_out_what_the_coordinator_fills_in_is_no_other_one(
    database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(begun: Begun) -> None:
        played = Played("order-1")
        for step in ("payments.charge", "stock.reserve", "shipping.ship", "mail.confirm"):
            played.answer(step)
        played.events[0] = msgspec.structs.replace(played.events[0], message_id=begun.request_id)
        database.put(played)

    served(monkeypatch, begin)
    monkeypatch.setattr(saga_start, "REFUSED_WITHIN", 60.0)
    ran = on_database("saga", "start", "order", "{}", "--id", "order-1", "--wait", "--wait-for", "1s")
    assert (ran.code, ran.err) == (0, "")


def test_who_has_only_kafka_starts_sagas_all_the_same(tmp_path: Path, sent: list[Begun]) -> None:
    nowhere = ("--database", f"sqlite:///{tmp_path}/none.sqlite")
    ran = segue("saga", "start", "order", text(Order()), "--id", "order-1", *nowhere)
    assert (ran.code, ran.out) == (0, "order-1\n")
    assert ran.err.startswith("warning: whether order-1 is taken can't be seen: ")
    assert len(sent) == 1
