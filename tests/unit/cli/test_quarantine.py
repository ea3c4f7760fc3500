"""What nobody could publish can be listed and deleted, and the audit says who did."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import insert, select

from segue.cli.arguments import system_user
from segue.clock import SYSTEM_CLOCK
from segue.coordinator import schema
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import AuditEntry, Changes
from tests.unit.cli.kit import Database, Ran

Segue = Callable[..., Ran]
MESSAGE = "6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d"


def quarantined(database: Database) -> None:
    row = {
        "seq": 7,
        "id": MESSAGE,
        "aggregatetype": "shop.dlq",
        "aggregateid": "k",
        "message": bytes(1000),
        "error": "too large",
        "attempts": 5,
        "quarantined_at": SYSTEM_CLOCK.now(),
    }
    database.execute(insert(schema.outbox_quarantine).values(**row))


def test_a_quarantined_message_is_listed_cleared_and_audited(database: Database, on_database: Segue) -> None:
    quarantined(database)
    assert on_database("verify").code == 1
    [row] = on_database("relay", "ls", "--json").json["quarantined"]
    assert (row["id"], row["aggregatetype"], row["error"]) == (MESSAGE, "shop.dlq", "too large")
    assert on_database("relay", "clear", MESSAGE).code == 2, "a reason is needed"
    assert on_database("relay", "clear", MESSAGE, "--reason", "the letter is in the database").code == 0
    assert on_database("verify").code == 0
    [line] = database.rows(select(schema.audit))
    assert (line.action, line.subject, line.system_user) == ("quarantine.clear", MESSAGE, system_user())


def test_what_would_break_the_seal_of_the_audit_is_refused_and_nothing_is_cleared(
    database: Database, on_database: Segue
) -> None:
    quarantined(database)
    clear, keyed = ("relay", "clear", MESSAGE, "--reason", "old"), ("--set", "coordinator.audit_key=sesame")
    store = SqlStore(database.url, audit_key=b"sesame")
    with store.batch() as batch:
        batch.write(Changes(audits=[AuditEntry(at=batch.now, actor="ann", action="retry")]))
    store.close()
    refused = on_database(*clear)
    assert (refused.code, "coordinator.audit_key" in refused.err) == (2, True)
    assert len(on_database("relay", "ls", "--json").json["quarantined"]) == 1
    assert on_database(*clear, *keyed).code == 0
    assert on_database("verify", *keyed).code == 0


def test_what_is_not_in_quarantine_cannot_be_cleared(database: Database, on_database: Segue) -> None:
    ran = on_database("relay", "clear", MESSAGE, "--reason", "why not")
    assert ran.code != 0
    assert "is not in quarantine" in ran.err
