"""What the command line says of sagas that wait for a person, or do not exist: no more than what is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.inputs import Reply
from segue.saga.transition import block
from segue.topics.broker import Record
from tests.unit.cli.kit import Database, Played, Ran, letter
from tests.unit.saga.kit import Order, charge, refund

Segue = Callable[..., Ran]


def test_a_saga_whose_start_was_refused_says_so_wherever_it_is_named(database: Database, on_database: Segue) -> None:
    record = Record(
        topic="segue.requests", partition=0, offset=7, key=b"order-9", value=b"{}",
        headers=(("ce_id", b"m-1"), ("ce_sagaaction", b"start")), timestamp_ms=1,
    )  # fmt: skip
    database.letters(letter(saga_id="order-9", record=record, reason="invalid_input", error_message="not an Order"))
    for command in (("show", "order-9"), ("retry", "order-9"), ("export", "order-9")):
        ran = on_database("saga", *command)
        assert ran.code == 4
        assert "there is no saga 'order-9'; its start was refused (invalid_input): not an Order" in ran.err
        assert "`segue dlq show 1`" in ran.err


def test_a_saga_whose_start_waits_for_its_type_says_that_it_waits(database: Database, on_database: Segue) -> None:
    record = Record(
        topic="segue.requests", partition=0, offset=7, key=b"order-9", value=b"{}",
        headers=(("ce_id", b"m-1"), ("ce_sagaaction", b"start")), timestamp_ms=1,
    )  # fmt: skip
    why = "no saga is called 'parcel' here; it starts once a coordinator has it"
    database.letters(
        letter(saga_id="order-9", record=record, state="parked", reason="unknown_saga_type", error_message=why)
    )
    said = on_database("saga", "show", "order-9").err
    assert f"its start waits: {why}; `segue dlq show 1`" in said
    assert "refused" not in said


def test_a_saga_that_only_an_early_signal_names_says_where_that_is_kept(database: Database, on_database: Segue) -> None:
    database.letters(letter(saga_id="order-9", state="parked", reason="early"))
    assert "what came for it is kept: `segue dlq show 1` (parked, early)" in on_database("saga", "show", "order-9").err


def blocked(saga_id: str, code: str, message: str) -> Played:
    played = Played(saga_id)
    played.now += 1
    played._keep(block(played.instance, e.Failure(code=code, message=message, kind="saga"), played.now))
    return played


@pytest.mark.parametrize(
    ("code", "message", "what", "remedy"),
    [
        ("undecodable", "segue.replies[0]@7: not JSON", "an answer to it can't be read or applied", "segue dlq replay"),
        ("internal_error", "segue.replies[0]@7: KeyError", "an answer to it can't be read or applied", "dlq replay"),
        ("internal_error", "KeyError('x')", "Segue itself failed at it", "deploy code"),
        ("KeyError", "'x' (sagas.py:17)", "the saga's code failed", "deploy code that fits, then `segue saga retry`"),
        ("InvalidPayload", "the output of x", "what came is not of the type that its code declares", "deploy code"),
        ("nondeterminism", "expected a", "its code asks for something else than its history holds", "deploy code"),
        ("history_limit", "50,000", "it has made as many transitions as are allowed", "or `segue saga cancel`"),
    ],
)
def test_a_blocked_saga_says_what_blocks_it_and_what_to_do(
    database: Database, on_database: Segue, code: str, message: str, what: str, remedy: str
) -> None:
    database.put(blocked("order-1", code, message))
    shown = on_database("saga", "show", "order-1", "--json").json
    assert shown["why"].startswith(f"{what}: {code}: {message}; ")
    assert remedy in shown["why"]
    assert shown["waiting_for"] == f"a person: {what}"
    assert f"blocked, {what}: {code}" in shown["timeline"][-1]["text"]


@saga("undecided")
async def undecided_saga(s: Saga, order: Order) -> None:
    if order.id == "pivot":
        s.pivot()
    await s.call(charge, order, compensate=None if order.id == "bare" else refund, on_failure=PARKING[order.id])


PARKING: dict[str, Any] = {"bare": "raise", "pivot": "raise", "park": "park"}


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ("bare", "and nothing can undo it"),
        ("pivot", "and after the pivot nothing is undone by itself"),
        ("park", "and its failure is to be parked, not undone"),
    ],
)
def test_a_step_in_doubt_says_why_it_is_not_undone(
    database: Database, on_database: Segue, order: str, why: str
) -> None:
    played = Played("order-1", definition=undecided_saga, input=Order(order))
    [command] = played.sent
    played.happen(Reply(command_id=command.id, outcome="failure", error="who_knows", effect_unknown=True))
    database.put(played)
    shown = on_database("saga", "show", "order-1", "--json").json
    assert shown["attention"] == "in_doubt"
    assert why in shown["why"]
    assert not any("nothing can undo" in entry["text"] for entry in shown["timeline"])
