"""`segue verify`: every broken promise is found, and a healthy database has none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from segue.clock import SYSTEM_CLOCK
from segue.contract import Signal
from segue.coordinator import schema, verification
from segue.coordinator.store import AuditEntry, Changes, OperatorRequest
from segue.outbox.message import Message
from segue.saga import Saga, saga
from tests.unit.cli.kit import Database, Played, Ran, compensated, completed, deferred, in_its_third_run, shipping

Segue = Callable[..., Ran]


@saga("patient")
async def patient_saga(s: Saga, order: int) -> int:
    return await s.receive(Signal("go", int))


def healthy(database: Database) -> Database:
    return database.put(
        shipping("order-1", ago=timedelta(seconds=5)),
        deferred("order-2"),
        completed("order-3"),
        compensated("order-4"),
        Played("order-5", definition=patient_saga, input=1),
    )


def violations(ran: Ran) -> list[tuple[str, str | None]]:
    assert ran.code == (1 if ran.json["violations"] else 0), ran.err
    return [(one["check"], one["saga_id"]) for one in ran.json["shown"]]


def test_a_healthy_database_passes(database: Database, on_database: Segue) -> None:
    entry = AuditEntry(at=SYSTEM_CLOCK.now(), actor="ann", action="retry")
    healthy(database).audit(entry, entry).audit(entry)
    ran = on_database("verify", "--json")
    assert ran.code == 0, ran.out
    assert ran.json == {"ok": True, "violations": 0, "by_check": {}, "checked": 8, "shown": []}
    assert on_database("verify").out == "all is well: 8 sagas and audit lines checked\n"


def test_a_saga_that_nothing_will_move_is_lost(database: Database, on_database: Segue) -> None:
    database.put(shipping("order-1"), wake_at=None)
    ran = on_database("verify")
    assert ran.code == 1
    assert "lost" in ran.out
    assert "order-1" in ran.out
    assert ran.err.startswith("error: 1 violations: lost 1")


def test_a_message_on_its_way_is_a_witness_of_progress(database: Database, on_database: Segue) -> None:
    database.put(shipping("order-1"), wake_at=None)
    message = Message(
        id="6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", aggregatetype="t", aggregateid="order-1", type="x", payload=b"{}",
        created_at=SYSTEM_CLOCK.now(), saga_id="order-1",
    )  # fmt: skip
    with database.store.batch() as batch:
        batch.write(Changes(messages=[message]))
    assert violations(on_database("verify", "--json")) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (delete(schema.saga_event).where(schema.saga_event.c.seq == 2), {"history", "fold"}),
        (delete(schema.saga_event), {"history"}),
        (update(schema.saga).values(revision=9), {"history", "fold"}),
        (update(schema.saga).values(status="completed"), {"fold"}),
        (update(schema.saga).values(result=b"{}"), {"fold"}),
        (update(schema.saga_event).where(schema.saga_event.c.seq == 2).values(payload=b"nonsense"), {"fold"}),
        (
            update(schema.saga).values(
                dict.fromkeys(("wake_at", "alarm_at"), SYSTEM_CLOCK.now() - timedelta(minutes=1))
            ),
            {"overdue"},
        ),
        (update(schema.saga).values(deadline_at=SYSTEM_CLOCK.now() - timedelta(minutes=1)), {"fold"}),
    ],
)
def test_what_was_tampered_with_is_found(
    database: Database, on_database: Segue, change: Any, expected: set[str]
) -> None:
    database.put(shipping("order-1", ago=timedelta(seconds=5)))
    database.execute(change)
    assert {check for check, _ in violations(on_database("verify", "--json"))} == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, set()),
        (delete(schema.saga_event).where(schema.saga_event.c.seq <= 2), set()),
        (delete(schema.saga_event).where(schema.saga_event.c.seq <= 4), set()),
        (delete(schema.saga_event).where(schema.saga_event.c.seq == 3), {"history"}),
        (delete(schema.saga_event), {"history"}),
        (delete(schema.saga_event).where(schema.saga_event.c.seq == 5), {"history"}),
        (update(schema.saga).values(run=2), {"fold"}),
        (update(schema.saga).values(first_seq=4), {"fold"}),
        (update(schema.saga).values(input=b"6"), {"fold"}),
    ],
)
def test_the_present_run_is_checked_and_earlier_ones_may_be_gone(
    database: Database, on_database: Segue, change: Any, expected: set[str]
) -> None:
    database.put(in_its_third_run())
    if change is not None:
        database.execute(change)
    assert {check for check, _ in violations(on_database("verify", "--json"))} == expected


def test_a_version_that_no_running_coordinator_has_is_told_from_no_coordinator_at_all(
    database: Database, on_database: Segue
) -> None:
    hour_ago = SYSTEM_CLOCK.now() - timedelta(hours=1)
    late = update(schema.saga).where(schema.saga.c.id == "order-1").values(wake_at=hour_ago, alarm_at=hour_ago)
    database.put(shipping("order-1", ago=timedelta(hours=2)))
    database.execute(late)
    assert "no coordinator runs, or none that has order version 1" in on_database("verify").out
    database.put(in_its_third_run())
    ran = on_database("verify", "--json").json["shown"][0]["message"]
    assert "but none that has order version 1; deploy that version, too" in ran
    database.put(completed("order-2"))
    assert "a coordinator that has order version 1 was at work at" in on_database("verify", "--json").out


def test_what_another_coordinator_of_the_database_does_says_nothing_about_this_one(
    database: Database, on_database: Segue
) -> None:
    hour_ago = SYSTEM_CLOCK.now() - timedelta(hours=1)
    database.put(shipping("order-1", ago=timedelta(hours=2)))
    database.execute(update(schema.saga).values(wake_at=hour_ago, alarm_at=hour_ago))
    database.put(completed("order-2"), coordinator="billing")
    messages = [one["message"] for one in on_database("verify", "--json").json["shown"] if one["check"] == "overdue"]
    assert len(messages) == 1
    assert "no coordinator runs, or none that has order version 1" in messages[0]


def test_an_audit_line_that_was_changed_or_removed_breaks_the_chain(database: Database, on_database: Segue) -> None:
    entry = AuditEntry(at=SYSTEM_CLOCK.now(), actor="ann", action="retry")
    database.audit(entry, entry, entry)
    database.execute(update(schema.audit).where(schema.audit.c.seq == 2).values(actor="bob"))
    assert "line 2 of the audit was changed" in on_database("verify").out
    database.execute(delete(schema.audit).where(schema.audit.c.seq == 2))
    assert "line 3 of the audit was changed, removed or put in between" in on_database("verify").out


def test_old_messages_quarantine_and_requests_that_nobody_takes_are_told(
    database: Database, on_database: Segue
) -> None:
    long_ago = SYSTEM_CLOCK.now() - timedelta(hours=1)
    message = Message(
        id="6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", aggregatetype="t", aggregateid="k", type="x", payload=b"{}",
        created_at=long_ago,
    )  # fmt: skip
    with database.store.batch() as batch:
        batch.write(Changes(messages=[message]))
    database.execute(update(schema.outbox_batch).values(created_at=long_ago))
    request = OperatorRequest(kind="retry", saga_id="x", actor="a", reason="", not_before=long_ago, created_at=long_ago)
    database.store.ask([request])
    quarantined = {
        "seq": 1, "id": message.id, "aggregatetype": "t", "aggregateid": "k", "message": b"", "error": "too large",
        "attempts": 3, "quarantined_at": long_ago,
    }  # fmt: skip
    database.execute(insert(schema.outbox_quarantine), [quarantined])
    assert [check for check, _ in violations(on_database("verify", "--json"))] == ["quarantine", "request", "outbox"]


def test_every_page_is_checked(database: Database, on_database: Segue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "PAGE", 2)
    entry = AuditEntry(at=SYSTEM_CLOCK.now(), actor="ann", action="retry")
    healthy(database).audit(entry, entry, entry)
    database.execute(update(schema.saga).where(schema.saga.c.id == "order-4").values(tenant="kept", error_code="other"))
    ran = on_database("verify", "--json")
    assert violations(ran) == [("fold", "order-4")]
    assert ran.json["checked"] == 8


def test_all_violations_are_counted_though_only_some_are_shown(database: Database, on_database: Segue) -> None:
    database.put(*(shipping(f"order-{n}") for n in range(5)), wake_at=None)
    ran = on_database("verify", "--json", "--limit", "2")
    assert (ran.json["violations"], len(ran.json["shown"])) == (5, 2)
