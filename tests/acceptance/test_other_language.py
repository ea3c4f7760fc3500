"""The participant of `docs/how-to/service-in-another-language.md` passes the cases that its page names."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.acceptance import tutorial

PAGE = tutorial.DOCS / "how-to/service-in-another-language.md"
ORDER = {"id": "17", "account": "ann", "cents": 100}
SUCCESS = ("success", None, '{"parcel": "p-17"}')


class Participant:
    """The page's program, over a database in memory."""

    def __init__(self) -> None:
        [program] = [block.content for block in tutorial.blocks(PAGE.read_text("utf-8")) if "shipping.py" in block.info]
        self._program: dict[str, Any] = {"__name__": "shipping"}
        exec(compile(program, str(PAGE), "exec"), self._program)
        self.db: sqlite3.Connection = self._program["open_database"](":memory:")

    def say(
        self, action: str, attempt: int = 1, deadline: datetime | None = None, done: bool = False, **order: Any
    ) -> Any:
        headers = {
            "ce_id": f"{action}-{attempt}",
            "ce_type": "shipping.ship" if action == "invoke" else "shipping.recall",
            "ce_sagakey": "shop/saga/shipping.ship",
            "ce_sagaaction": action,
            "ce_sagaattempt": str(attempt),
        }
        if done:
            headers["ce_sagadone"] = "true"
        headers |= {name: value for name, value in order.items() if name.startswith("ce_")}
        order = {name: value for name, value in order.items() if not name.startswith("ce_")}
        if deadline is not None:
            headers["ce_sagadeadline"] = deadline.isoformat().replace("+00:00", "Z")
        body = ORDER | order
        whole = body if action == "invoke" else {"input": body, "output": None}
        return self._program["answer"](self.db, headers, json.dumps(whole))

    @property
    def parcels(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM parcel").fetchone()[0])


@pytest.fixture
def participant() -> Iterator[Participant]:
    found = Participant()
    yield found
    found.db.close()


def test_a_duplicate_gets_the_stored_answer(participant: Participant) -> None:
    assert participant.say("invoke") == participant.say("invoke") == SUCCESS
    assert participant.parcels == 1


def test_a_later_attempt_gets_the_success_of_the_first(participant: Participant) -> None:
    assert participant.say("invoke") == participant.say("invoke", attempt=2) == SUCCESS
    assert participant.parcels == 1


def test_an_earlier_attempt_that_comes_late_is_refused(participant: Participant) -> None:
    participant.say("invoke", attempt=2, account="bob")

    assert participant.say("invoke")[:2] == ("failure", "superseded")
    assert participant.parcels == 0


def test_undo_before_do_succeeds_and_keeps_the_invoke_out(participant: Participant) -> None:
    assert participant.say("compensate")[0] == "success"

    assert participant.say("invoke")[:2] == ("failure", "compensated")
    assert participant.parcels == 0


def test_an_undo_of_what_was_done_and_is_forgotten_is_refused(participant: Participant) -> None:
    participant.say("invoke")
    participant.db.execute("DELETE FROM fence")  # swept, or restored from yesterday

    assert participant.say("compensate", done=True)[:2] == ("failure", "forgotten")
    assert participant.parcels == 1


def test_an_activity_that_this_build_lacks_is_not_refused(participant: Participant) -> None:
    assert participant.say("invoke", ce_type="shipping.insure")[:2] == ("retry", "unknown_activity")
    assert participant.say("invoke", attempt=2) == SUCCESS


def test_what_was_undone_is_not_done_again_by_a_later_attempt(participant: Participant) -> None:
    participant.say("invoke")
    assert participant.say("compensate") == participant.say("compensate") == ("success", None, "null")

    assert participant.say("invoke", attempt=2)[:2] == ("failure", "compensated")
    assert participant.parcels == 0


def test_an_expired_invoke_is_refused_but_an_answered_one_is_answered_again(participant: Participant) -> None:
    over = datetime(2020, 1, 1, tzinfo=UTC)

    assert participant.say("invoke", deadline=over)[:2] == ("failure", "expired")
    assert participant.say("invoke", attempt=2) == SUCCESS
    assert participant.say("invoke", attempt=2, deadline=over) == SUCCESS


def test_what_was_refused_needs_no_undo(participant: Participant) -> None:
    participant.say("invoke", account="bob")
    participant.db.execute("INSERT INTO parcel VALUES ('17')")  # somebody else's

    assert participant.say("compensate")[0] == "success"
    assert participant.parcels == 1
