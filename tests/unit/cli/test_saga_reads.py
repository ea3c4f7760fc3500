"""`segue saga ls` and `segue saga show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from segue.clock import SYSTEM_CLOCK
from segue.contract import Signal, minutes
from segue.coordinator.store import AuditEntry
from segue.saga import Saga, saga
from segue.saga.inputs import Cancel
from segue.testing import replay
from tests.unit.cli.kit import (
    Database,
    Played,
    Ran,
    compensated,
    completed,
    counter_saga,
    deferred,
    in_its_third_run,
    shipping,
)
from tests.unit.saga.kit import Order, charge, refund
from tests.unit.saga.sagas import order_saga

Segue = Callable[..., Ran]


@saga("returning")
async def returning(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund)
    return s.compensated("all is given back")


def test_a_saga_that_had_all_undone_shows_its_result_and_no_error(database: Database, on_database: Segue) -> None:
    database.put(Played("order-1", returning).answer("payments.charge").answer("payments.charge"))
    shown = on_database("saga", "show", "order-1", "--json").json
    assert (shown["status"], shown["result"], shown["error_code"]) == ("compensated", "all is given back", None)
    text = on_database("saga", "show", "order-1").out
    assert "all is given back" in text
    assert "error" not in text


@pytest.fixture
def filled(database: Database) -> Database:
    return database.put(
        shipping("order-1", ago=timedelta(seconds=9)),
        deferred("order-2", ago=timedelta(hours=2)),
        completed("order-3", ago=timedelta(hours=3)),
        compensated("order-4", ago=timedelta(hours=4)),
    )


def ids(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    return [saga["id"] for saga in ran.json["sagas"]]


def test_sagas_are_listed_newest_first(filled: Database, on_database: Segue) -> None:
    assert ids(on_database("saga", "ls", "--json")) == ["order-1", "order-2", "order-3", "order-4"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--status", "completed"), ["order-3"]),
        (("--status", "completed", "--status", "compensated"), ["order-3", "order-4"]),
        (("--definition", "order"), ["order-1", "order-2", "order-3", "order-4"]),
        (("--definition", "refund"), []),
        (("--stuck",), ["order-2"]),
        (("--error", "sold_out"), ["order-2", "order-4"]),
        (("--step", "shipping.ship"), ["order-1"]),
        (("--since", "1h"), ["order-1"]),
        (("--since", "2000-01-01T00:00:00Z", "--limit", "1"), ["order-1"]),
    ],
)
def test_the_list_can_be_narrowed(
    filled: Database, on_database: Segue, options: tuple[str, ...], found: list[str]
) -> None:
    assert ids(on_database("saga", "ls", "--json", *options)) == found


def test_pages_follow_each_other_without_gaps_or_repetition(filled: Database, on_database: Segue) -> None:
    seen: list[str] = []
    cursor: str | None = None
    while True:
        ran = on_database("saga", "ls", "--json", "--limit", "1", *(("--after", cursor) if cursor else ()))
        seen += ids(ran)
        cursor = ran.json["next"]
        if cursor is None:
            break
    assert seen == ["order-1", "order-2", "order-3", "order-4"]


def test_sagas_that_started_in_the_same_instant_are_paged_too(database: Database, on_database: Segue) -> None:
    moment = SYSTEM_CLOCK.now()
    database.put(*(completed(f"order-{n}") for n in range(5)), started_at=moment)
    first = on_database("saga", "ls", "--json", "--limit", "3")
    second = on_database("saga", "ls", "--json", "--limit", "3", "--after", first.json["next"])
    assert ids(first) + ids(second) == ["order-4", "order-3", "order-2", "order-1", "order-0"]


def test_an_overdue_saga_is_stuck(database: Database, on_database: Segue) -> None:
    database.put(shipping("order-1", ago=timedelta(minutes=30)))
    (found,) = on_database("saga", "ls", "--stuck", "--json").json["sagas"]
    assert (found["id"], found["attention"], found["overdue"]) == ("order-1", "none", True)
    assert "overdue" in on_database("saga", "ls", "--stuck").out


@saga("reviewed")
async def reviewed_saga(s: Saga, order: int) -> str:
    return await s.receive(Signal("decision", str), expected=minutes(2))


@pytest.mark.parametrize(("ago", "late"), [(1, False), (3, True)])
def test_a_saga_whose_signal_is_late_is_stuck(database: Database, on_database: Segue, ago: int, late: bool) -> None:
    database.put(Played("r-1", definition=reviewed_saga, input=1, ago=minutes(ago)))
    stuck = on_database("saga", "ls", "--stuck", "--json").json["sagas"]
    assert [one["id"] for one in stuck] == (["r-1"] if late else [])
    shown = " ".join(on_database("saga", "show", "r-1").out.split())
    assert "the signal decision, expected until" in shown
    assert (", overdue" in shown) is late


def test_a_saga_whose_code_no_process_has_is_stuck(database: Database, on_database: Segue) -> None:
    long_ago = SYSTEM_CLOCK.now() - timedelta(minutes=5)
    database.put(shipping("order-1", ago=timedelta(0)), undriven=True, updated_at=long_ago)
    assert ids(on_database("saga", "ls", "--stuck", "--json")) == ["order-1"]


def test_groups_count_what_sagas_have_in_common(filled: Database, on_database: Segue) -> None:
    ran = on_database("saga", "ls", "--group-by", "error", "--json")
    counts = {group["key"]: group["count"] for group in ran.json["groups"]}
    assert (ran.json["by"], counts) == ("error", {"sold_out": 2, None: 2})
    assert "sold_out" in on_database("saga", "ls", "--group-by", "error").out


def test_what_an_undo_met_is_shown_and_grouped_beside_the_first_cause(database: Database, on_database: Segue) -> None:
    database.put(deferred("order-1"), deferred("order-2"), shipping("order-3"))
    (row,) = (one for one in on_database("saga", "ls", "--json").json["sagas"] if one["id"] == "order-1")
    cause, met = row["error_code"], row["undo_error_code"]
    assert None not in (cause, met)
    assert cause != met

    groups = on_database("saga", "ls", "--group-by", "undo_error", "--json").json["groups"]
    assert {group["key"]: group["count"] for group in groups} == {met: 2, None: 1}
    shown = [line.split()[:3] for line in on_database("saga", "show", "order-1").out.splitlines()]
    assert ["undo's", "error", met] in [[*line[:2], line[2].rstrip(":")] for line in shown if len(line) == 3]
    assert cause in next(line[1] for line in shown if line[:1] == ["error"])


def test_the_shape_of_a_listed_saga_is_stable(filled: Database, on_database: Segue) -> None:
    (found,) = on_database("saga", "ls", "--status", "completed", "--json").json["sagas"]
    assert sorted(found) == [
        "attempt", "attention", "attributes", "coordinator", "deadline_at", "definition", "ended_at", "error_class",
        "error_code", "error_message", "expected_at", "first_seq", "id", "input", "overdue", "parent_id", "result",
        "revision", "run",
        "started_at", "status", "step", "tenant", "undo_error_code", "undo_error_message", "undriven",
        "updated_at", "version", "waiting_for", "wake_at",
    ]  # fmt: skip
    assert found["input"] == {"id": "o-1", "account": "ann", "total": "9.50"}
    assert found["result"] == {"parcel": "p-1"}


def test_an_empty_list_says_so_on_stderr_and_keeps_stdout_empty(database: Database, on_database: Segue) -> None:
    ran = on_database("saga", "ls")
    assert (ran.code, ran.out, ran.err) == (0, "", "no sagas\n")


def test_show_says_where_a_saga_is_and_what_it_waits_for(filled: Database, on_database: Segue) -> None:
    ran = on_database("saga", "show", "order-1")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert "order-1 order v1" in text
    assert "status running" in text
    assert "the next try of shipping.ship, attempt 2 of 3 until 2" in text
    assert "would be compensated, in this order: stock.reserve, payments.charge" in text
    assert "shipping.ship waiting 1/3" in text
    assert "payments.charge succeeded 1/5" in text
    assert "shipping.ship is tried again at" in text
    assert "busy: no van" in text


def test_show_names_the_run_and_shows_earlier_ones_if_asked(database: Database, on_database: Segue) -> None:
    database.put(in_its_third_run())
    text = " ".join(on_database("saga", "show", "counter-1").out.split())
    assert "run 3, since transition 5" in text
    assert "input 1 " in text
    assert "run 3 began, counter v1" in text
    assert "run 2 began" not in text
    assert "run 2 began, counter v1" in on_database("saga", "show", "counter-1", "--all").out
    assert on_database("saga", "show", "counter-1", "--json").json["run"] == 3


def test_show_says_nothing_of_runs_where_there_is_one(filled: Database, on_database: Segue) -> None:
    assert "since transition" not in on_database("saga", "show", "order-1").out


def test_show_says_why_a_person_is_needed(filled: Database, on_database: Segue) -> None:
    text = " ".join(on_database("saga", "show", "order-2").out.split())
    assert "status compensating, deferred" in text
    assert "why the compensation of payments.charge is spent (account_closed: ann left)" in text
    assert "still to be compensated, in this order: payments.charge" in text


def test_show_tells_what_has_been_compensated(filled: Database, on_database: Segue) -> None:
    text = on_database("saga", "show", "order-4").out
    assert "compensated, in this order: payments.charge" in text
    assert "would be compensated" not in text


def test_show_as_json_has_steps_waits_and_timeline(filled: Database, on_database: Segue) -> None:
    saga = on_database("saga", "show", "order-1", "--json").json
    charge, reserve, ship = saga["steps"]
    assert (charge["status"], charge["output"], charge["attempt"], charge["attempts"]) == (
        "succeeded",
        {"charge_id": "ch-1"},
        1,
        5,
    )
    assert (ship["status"], ship["error"], ship["output"]) == ("waiting", "busy: no van", None)
    assert len({charge["command_id"], reserve["command_id"], ship["command_id"]}) == 3
    assert charge["undo"] == {
        "activity": "payments.refund",
        "status": "none",
        "attempt": 0,
        "command_id": None,
        "error": None,
        "reason": None,
    }
    (wait,) = saga["waits"]
    assert wait["what"] == "the next try of shipping.ship, attempt 2 of 3"
    assert saga["to_compensate"] == ["stock.reserve", "payments.charge"]
    assert [entry["type"] for entry in saga["timeline"]][:3] == ["Started", "StepScheduled", "CommandSent"]
    assert saga["timeline"][-1]["seq"] == saga["revision"] == 4


def test_a_cancelled_saga_shows_who_did_it_and_what_is_audited(database: Database, on_database: Segue) -> None:
    database.put(shipping().happen(Cancel(reason="asked", actor="ann")))
    database.audit(AuditEntry(at=SYSTEM_CLOCK.now(), actor="ann", action="cancel", saga_id="order-1", reason="asked"))
    text = " ".join(on_database("saga", "show", "order-1").out.split())
    assert "stopped by a cancel by ann, compensate all: cancelled: asked" in text
    assert "ann: cancel, done: asked" in text


def test_control_characters_in_data_never_reach_the_terminal(database: Database, on_database: Segue) -> None:
    played = Played().answer(
        "payments.charge", "failure", "bad\x1b[2J", "\x9b31m\u202egnp.exe\r\n[red]not markup[/red]"
    )
    database.put(played)
    for ran in (on_database("saga", "show", "order-1"), on_database("saga", "ls")):
        assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(ran.out)
        assert r"bad\x1b[2J" in ran.out
    assert "[red]not markup[/red]" in on_database("saga", "show", "order-1").out


def test_a_history_of_another_version_still_shows_the_row(database: Database, on_database: Segue) -> None:
    played = shipping()
    played.events[-1:] = []
    database.put(played)
    from sqlalchemy import update

    from segue.coordinator.schema import saga_event

    database.execute(update(saga_event).where(saga_event.c.seq == 1).values(payload=b'[{"e":"fromthefuture"}]'))
    ran = on_database("saga", "show", "order-1")
    assert ran.code == 0
    assert "history written by another version of Segue" in ran.err
    assert "running" in ran.out


def test_an_unknown_saga_is_not_found(database: Database, on_database: Segue) -> None:
    ran = on_database("saga", "show", "nobody")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == "error: there is no saga 'nobody'; `segue saga ls` lists them\n"


def test_wrong_options_are_usage_errors(database: Database, on_database: Segue) -> None:
    ran = on_database("saga", "ls", "--since", "yesterday")
    assert (ran.code, ran.err) == (
        2,
        "error: --since 'yesterday': expected a duration like 200ms, 30s, 5m, 2h, 7d or 1h30m, "
        "or a time like 2026-11-21T09:30:00Z\n",
    )
    assert on_database("saga", "ls", "--after", "???").code == 2
    assert on_database("saga", "ls", "--status", "lost").code == 2


# --- export


def test_an_exported_history_is_what_new_code_is_checked_with(
    filled: Database, on_database: Segue, tmp_path: Path
) -> None:
    ran = on_database("saga", "export", "order-3", "order-4")
    assert ran.code == 0, ran.err
    assert replay(ran.out, order_saga) == {"order-3": "completed", "order-4": "compensated"}
    file = tmp_path / "orders.jsonl"
    written = on_database("saga", "export", "--definition", "order", "--live", "--output", str(file), "--json")
    assert written.json == {"sagas": 2, "file": str(file)}
    assert replay(file, order_saga) == {"order-1": "running", "order-2": "compensating"}


def test_of_a_saga_with_several_runs_the_present_one_is_exported(database: Database, on_database: Segue) -> None:
    database.put(in_its_third_run())
    ran = on_database("saga", "export", "counter-1")
    assert [json.loads(line)["seq"] for line in ran.out.splitlines()] == [5]
    assert replay(ran.out, counter_saga) == {"counter-1": "running"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name the sagas to export"),
        (("order-1", "--live"), 2, "name the sagas to export"),
        (("order-1", "--json"), 2, "an export is lines of JSON"),
        (("order-1", "--output", "no/such/folder"), 2, "cannot write no/such/folder"),
        (("order-9",), 4, "there is no saga 'order-9'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    filled: Database, on_database: Segue, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = on_database("saga", "export", *arguments)
    assert ran.code == code
    assert message in ran.err
