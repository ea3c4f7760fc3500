"""What people do to sagas and dead letters: asked for, done by a coordinator, audited."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from segue.coordinator.schema import audit, operator_request
from tests.unit.cli.kit import Database, Ran, completed, coordinating, deferred, letter, shipping

Segue = Callable[..., Ran]


def asked(database: Database) -> list[Any]:
    return database.rows(select(operator_request).order_by(operator_request.c.id))


def test_a_retry_is_done_by_a_coordinator_and_its_outcome_shown(database: Database, on_database: Segue) -> None:
    database.put(deferred("order-2"))
    with coordinating(database.url):
        ran = on_database("saga", "retry", "order-2", "--reason", "account is open again", "--actor", "ann")
    assert (ran.code, ran.out) == (0, "order-2: retry: done\n")
    (line,) = database.rows(select(audit))
    assert (line.actor, line.action, line.saga_id, line.reason) == ("ann", "retry", "order-2", "account is open again")
    assert "the compensation of payments.charge, attempt 2" in on_database("saga", "show", "order-2").out


def test_a_refusal_is_shown_with_its_own_exit_code(database: Database, on_database: Segue) -> None:
    database.put(completed("order-3"))
    with coordinating(database.url):
        ran = on_database("saga", "retry", "order-3", "--json")
    assert ran.code == 5
    (result,) = ran.json["results"]
    assert result["subject"] == "order-3"
    assert result["outcome"].startswith("refused: ")
    assert result["audit"]["action"] == "retry"
    assert json.loads(ran.err) == {
        "error": {"code": "not_allowed", "message": "1 of 1 requests were refused; see above"}
    }


def test_without_a_coordinator_the_request_stays_queued(database: Database, on_database: Segue) -> None:
    database.put(deferred("order-2"))
    ran = on_database("saga", "retry", "order-2", "--wait-for", "0s")
    assert ran.code == 6
    assert "1 of 1 requests are still waiting for a coordinator; they stay queued" in ran.err
    assert [row.kind for row in asked(database)] == ["retry"]
    assert "not done yet: retry" in on_database("saga", "show", "order-2").out


def test_nobody_needs_to_wait(database: Database, on_database: Segue) -> None:
    database.put(deferred("order-2"))
    ran = on_database("saga", "retry", "order-2", "--no-wait")
    assert (ran.code, ran.out) == (0, "asked for 1 × retry; a coordinator will do it\n")


@pytest.mark.parametrize(
    ("arguments", "kind", "expected"),
    [
        (("retry", "order-2"), "retry", {"step": None}),
        (
            ("retry", "order-2", "--step", "payments.charge", "--input", '{"a": 1}'),
            "retry",
            {"step": "payments.charge", "input": {"a": 1}},
        ),
        (("skip", "order-2", "payments.charge", "--reason", "r"), "skip", {"step": "payments.charge"}),
        (
            ("resolve", "order-2", "payments.charge", "--outcome", "success", "--output", "@out.json", "--reason", "r"),
            "resolve",
            {"step": "payments.charge", "outcome": "success", "output": {"charge_id": "x"}},
        ),
        (
            ("resolve", "order-2", "payments.charge", "--outcome", "failure", "--code", "lost", "--reason", "r"),
            "resolve",
            {"step": "payments.charge", "outcome": "failure", "output": None, "code": "lost"},
        ),
        (("cancel", "order-2", "--reason", "r"), "cancel", {"compensate": "all"}),
        (
            ("cancel", "order-2", "--reason", "r", "--compensate", "to:payments.charge"),
            "cancel",
            {"compensate": "to:payments.charge"},
        ),
    ],
)
def test_an_action_becomes_a_request(
    database: Database, on_database: Segue, tmp_path: Path, arguments: tuple[str, ...], kind: str, expected: Any
) -> None:
    (tmp_path / "out.json").write_text('{"charge_id": "x"}', "utf-8")
    database.put(deferred("order-2"))
    assert on_database("saga", *arguments, "--no-wait", "--actor", "ann").code == 0
    (row,) = asked(database)
    assert (row.kind, row.saga_id, row.actor, json.loads(row.arguments)) == (kind, "order-2", "ann", expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("saga", "skip", "order-2", "x"), "--reason is mandatory here: it is kept in the audit"),
        (("saga", "cancel", "order-2", "--reason", " "), "--reason is mandatory here: it is kept in the audit"),
        (
            ("saga", "resolve", "order-2", "x", "--outcome", "success"),
            "--reason is mandatory here: it is kept in the audit",
        ),
        (("dlq", "discard", "1"), "--reason is mandatory here: it is kept in the audit"),
        (("saga", "retry"), "name sagas, or choose them with --error, --definition or --since"),
        (
            ("saga", "retry", "order-2", "--error", "x"),
            "name sagas or choose them by --error, --definition or --since, not both",
        ),
        (
            ("saga", "retry", "order-2", "--input", "1"),
            "--input needs one saga and --step: an input belongs to one step",
        ),
        (
            ("saga", "retry", "order-2", "--rate", "fast"),
            "--rate 'fast': expected a number per time, like 10/s, 5/m or 100/h",
        ),
        (
            ("saga", "retry", "order-2", "--rate", "0/s"),
            "--rate '0/s': expected a number per time, like 10/s, 5/m or 100/h",
        ),
        (
            ("saga", "retry", "order-2", "--step", "x", "--input", "{nope"),
            "the argument is not JSON: JSON is malformed: object keys must be strings (byte 1)",
        ),
        (
            ("saga", "retry", "order-2", "--step", "x", "--input", "@none"),
            "cannot read none: No such file or directory",
        ),
        (
            ("saga", "resolve", "order-2", "x", "--outcome", "failure", "--output", "1", "--reason", "r"),
            "--output belongs to --outcome success: a failed step has none",
        ),
        (
            ("saga", "cancel", "order-2", "--compensate", "some", "--reason", "r"),
            "--compensate 'some': allowed are all, none and to:STEP",
        ),
        (
            ("dlq", "replay"),
            "name dead letters by number, or choose them with --saga, --fingerprint, --cause or --since",
        ),
        (("dlq", "replay", "--value", "x", "--saga", "y"), "--value needs the number of one dead letter"),
        (("dlq", "replay", "1", "--header", "x"), "--header 'x': write NAME=TEXT, or NAME= to take the header away"),
        (
            ("saga", "retry", "order-2", "--wait-for", "soon"),
            "--wait-for 'soon': expected a duration like 200ms, 30s, 5m, 2h, 7d or 1h30m",
        ),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_asked(
    database: Database, on_database: Segue, arguments: tuple[str, ...], sentence: str
) -> None:
    database.put(deferred("order-2"))
    ran = on_database(*arguments)
    assert (ran.code, ran.err) == (2, f"error: {sentence}\n")
    assert asked(database) == []


def test_one_mistyped_id_leaves_all_undone(database: Database, on_database: Segue) -> None:
    database.put(deferred("order-2"))
    ran = on_database("saga", "cancel", "order-2", "order-22", "--reason", "r")
    assert ran.code == 4
    assert asked(database) == []


def test_a_bulk_retry_takes_what_needs_a_person_and_spaces_it_by_the_rate(
    database: Database, on_database: Segue
) -> None:
    database.put(
        deferred("order-1"), deferred("order-2"), deferred("order-5"), shipping("order-3"), completed("order-4")
    )
    ran = on_database("saga", "retry", "--error", "sold_out", "--rate", "10/s", "--no-wait")
    assert ran.code == 0
    rows = asked(database)
    assert {row.saga_id for row in rows} == {"order-1", "order-2", "order-5"}
    assert [row.not_before - rows[0].not_before for row in rows] == [timedelta(seconds=n / 10) for n in range(3)]


def test_a_bulk_action_is_limited_and_says_so(database: Database, on_database: Segue) -> None:
    database.put(*(deferred(f"order-{n}") for n in range(3)))
    ran = on_database("saga", "retry", "--definition", "order", "--limit", "2", "--no-wait")
    assert "3 sagas match; the newest 2 are taken (--limit)" in ran.err
    assert len(asked(database)) == 2


def test_a_dry_run_says_what_would_happen_and_changes_nothing(database: Database, on_database: Segue) -> None:
    database.put(shipping("order-1"), completed("order-3"))
    ran = on_database("saga", "cancel", "order-1", "order-3", "--reason", "r", "--actor", "ann", "--dry-run", "--json")
    assert ran.code == 0
    live, ended = ran.json["requests"]
    assert ran.json["dry_run"] is True
    assert (live["saga_id"], live["accepted"]) == ("order-1", True)
    assert live["effects"] == [
        "stopped by a cancel by ann, compensate all: cancelled: r",
        "shipping.ship failed without effect: stopped: the saga was stopped before it was tried again",
        "the compensation of stock.reserve is sent, attempt 1",
    ]
    assert (ended["accepted"], ended["effects"]) == (False, ["ended: the saga is completed"])
    assert asked(database) == []
    text = on_database("saga", "cancel", "order-1", "--reason", "r", "--dry-run")
    assert "order-1: would cancel\n" in text.out
    assert "dry run: 1 requests, 0 of them would be refused; nothing was changed" in text.err


def test_the_actor_is_the_user_of_the_operating_system(
    database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "carol")
    database.put(deferred("order-2"))
    on_database("saga", "retry", "order-2", "--no-wait")
    assert [row.actor for row in asked(database)] == ["carol"]


def test_dead_letters_are_listed_filtered_and_grouped(database: Database, on_database: Segue) -> None:
    database.letters(
        letter(1),
        letter(2, fingerprint="ffff00001111", reason="foreign_reply", saga_id="order-2"),
        letter(3, state="discarded"),
    )
    ran = on_database("dlq", "ls", "--json")
    assert [one["offset"] for one in ran.json["dead_letters"]] == [1, 2]
    assert sorted(ran.json["dead_letters"][0]) == [
        "attempts", "bytes", "coordinator", "created_at", "error_class", "error_message", "fingerprint", "id", "offset",
        "partition", "reason", "replays", "saga_id", "state", "timestamp_ms", "topic", "topic_id", "updated_at",
    ]  # fmt: skip

    def offsets(*options: str) -> list[int]:
        return [one["offset"] for one in on_database("dlq", "ls", "--json", *options).json["dead_letters"]]

    assert offsets("--fingerprint", "3fa2") == [1]
    assert offsets("--saga", "order-2") == [2]
    assert offsets("--cause", "foreign_reply") == [2]
    assert offsets("--state", "discarded") == [3]
    assert offsets("--since", "1m") == []
    assert offsets("--topic", "segue.replies") == [1, 2]
    groups = on_database("dlq", "ls", "--group-by", "fingerprint", "--json").json["groups"]
    assert {group["key"]: group["count"] for group in groups} == {"3fa2b1c0d9e8": 1, "ffff00001111": 1}


def test_a_dead_letter_is_shown_without_its_control_characters_and_as_json_byte_for_byte(
    database: Database, on_database: Segue
) -> None:
    database.letters(letter(7))
    text = on_database("dlq", "show", "1").out
    assert "\x1b" not in text
    assert "segue.replies, partition 0, offset 7" in text
    shown = on_database("dlq", "show", "1", "--json").json
    assert b64decode(shown["value"]) == b"\x00\xffnot json"
    assert shown["headers"] == [["ce_id", "bS0x"], ["ce_id", None], ["x", "G1sySg=="]]
    assert on_database("dlq", "show", "99").code == 4


def test_dead_letters_are_replayed_and_discarded_through_requests(database: Database, on_database: Segue) -> None:
    database.letters(letter(1), letter(2), letter(3, fingerprint="ffff00001111"))
    assert on_database("dlq", "replay", "--fingerprint", "3fa2", "--rate", "1/m", "--no-wait").code == 0
    assert on_database("dlq", "replay", "3", "--value", "{}", "--no-wait").code == 0
    assert on_database("dlq", "discard", "3", "--reason", "test data", "--no-wait").code == 0
    changed = ("--header", "ce_sagaoutcome=success", "--header", "x-odd=")
    assert on_database("dlq", "replay", "1", "2", *changed, "--no-wait").code == 0
    rows = asked(database)
    assert [(row.kind, row.dead_letter_id, json.loads(row.arguments)) for row in rows] == [
        ("replay", 1, {}),
        ("replay", 2, {}),
        ("replay", 3, {"value": "e30="}),
        ("discard", 3, {}),
        ("replay", 1, {"headers": {"ce_sagaoutcome": "success", "x-odd": None}}),
        ("replay", 2, {"headers": {"ce_sagaoutcome": "success", "x-odd": None}}),
    ]
    assert rows[1].not_before - rows[0].not_before == timedelta(minutes=1)


def test_a_replay_is_done_by_a_coordinator_and_its_outcome_shown(database: Database, on_database: Segue) -> None:
    database.letters(letter(1), letter(2))
    with coordinating(database.url):
        replayed = on_database("dlq", "replay", "1")
        discarded = on_database("dlq", "discard", "2", "--reason", "junk")
    assert replayed.code == 5
    assert "dead letter 1: replay: still dead: " in replayed.out
    assert (discarded.code, discarded.out) == (0, "dead letter 2: discard: done\n")
    assert [one["id"] for one in on_database("dlq", "ls", "--json").json["dead_letters"]] == [1]


def test_the_dry_run_of_a_replay_names_each_record(database: Database, on_database: Segue) -> None:
    database.letters(letter(1), letter(2, state="discarded"))
    ran = on_database("dlq", "replay", "1", "2", "--dry-run", "--json")
    assert [(one["dead_letter_id"], one["accepted"], one["effects"]) for one in ran.json["requests"]] == [
        (1, True, ["dead, undecodable, from segue.replies[0]@1"]),
        (2, False, ["discarded, undecodable, from segue.replies[0]@2"]),
    ]
    assert asked(database) == []


def test_a_bulk_replay_is_limited_and_says_so(database: Database, on_database: Segue) -> None:
    database.letters(letter(1), letter(2), letter(3))
    ran = on_database("dlq", "replay", "--since", "1d", "--limit", "2", "--no-wait")
    assert len(asked(database)) == 2
    assert "more than 2 dead letters match; the oldest 2 are taken (--limit)" in ran.err


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("input", ("retry", "order-2", "--step", "payments.charge", "--input")),
        ("output", ("resolve", "order-2", "payments.charge", "--reason", "seen", "--outcome", "success", "--output")),
    ],
)
def test_the_digits_of_a_persons_number_arrive_as_they_were_typed(
    database: Database, on_database: Segue, field: str, arguments: tuple[str, ...]
) -> None:
    database.put(deferred("order-2"))
    on_database("saga", *arguments, '{ "total": 0.12345678901234567890123 }', "--no-wait")
    assert f'"{field}":{{"total":0.12345678901234567890123}}'.encode() in asked(database)[-1].arguments


def test_the_edited_body_of_a_compensation_may_be_as_long_as_an_input_and_an_output(
    database: Database, on_database: Segue, tmp_path: Path
) -> None:
    database.put(deferred("order-2"))
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"input": "i" * 200_000, "output": "o" * 200_000}))
    ran = on_database("saga", "retry", "order-2", "--step", "payments.charge", "--input", f"@{body}", "--no-wait")
    assert (ran.code, ran.err) == (0, "")
    assert len(asked(database)[-1].arguments) > 400_000


def test_what_is_longer_than_the_step_would_take_is_refused_before_it_is_asked_for(
    database: Database, on_database: Segue, tmp_path: Path
) -> None:
    database.put(deferred("order-2"))
    longer, far_longer = tmp_path / "longer.json", tmp_path / "far_longer.json"
    longer.write_text(json.dumps("x" * 300_000))
    far_longer.write_text(json.dumps("x" * 700_000))
    of_an_input = on_database("saga", "retry", "order-2", "--step", "stock.reserve", "--input", f"@{longer}")
    of_an_undo = on_database("saga", "retry", "order-2", "--step", "payments.charge", "--input", f"@{far_longer}")
    assert (of_an_input.code, of_an_undo.code) == (2, 2)
    assert "the input of stock.reserve can't be used: payload has 300002 bytes, allowed are 262144" in of_an_input.err
    assert "allowed are" in of_an_undo.err
    assert not asked(database)
