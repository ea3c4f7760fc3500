"""The audit can't be shortened, rewritten or signed by somebody else without `segue verify` seeing it."""

from __future__ import annotations

import dataclasses
import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from segue.clock import SYSTEM_CLOCK
from segue.coordinator import schema
from segue.coordinator.audit import GENESIS, Head, chain, parse_head, seal
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import AuditEntry, Changes
from segue.errors import UsageError
from tests.unit.cli.kit import Database, Ran, coordinating, deferred

Segue = Callable[..., Ran]
AUDIT, HEAD = schema.audit, schema.audit_head
KEYED = ("--set", "coordinator.audit_key=sesame")


def entry(actor: str = "ann", **more: Any) -> AuditEntry:
    return AuditEntry(at=SYSTEM_CLOCK.now(), actor=actor, action="retry", **more)


def appended(database: Database, *entries: AuditEntry, key: bytes = b"") -> None:
    store = SqlStore(database.url, audit_key=key)
    with store.batch() as batch:
        batch.write(Changes(audits=list(entries)))
    store.close()


def found(ran: Ran) -> str:
    return "; ".join(one["message"] for one in ran.json["shown"] if one["check"] == "audit")


@pytest.fixture
def lines(database: Database) -> Database:
    return database.audit(entry("ann"), entry("bob")).audit(entry("cleo", saga_id="order-1"))


def test_the_head_counts_the_lines_and_holds_the_last_hash(lines: Database, on_database: Segue) -> None:
    last = lines.rows(select(AUDIT).order_by(AUDIT.c.seq.desc()))[0]
    assert on_database("audit", "head").out == f"3:{last.hash}\n"
    assert on_database("audit", "head", "--json").json == {"lines": 3, "hash": last.hash, "mac": None}
    assert on_database("verify").code == 0


def test_an_audit_without_a_line_has_no_head(database: Database, on_database: Segue) -> None:
    ran = on_database("audit", "head")
    assert (ran.code, ran.err) == (4, "error: the audit has no line yet\n")
    assert on_database("verify").code == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (delete(AUDIT).where(AUDIT.c.seq == 3), "line 3 of the audit is gone: the audit's head counts more"),
        (delete(AUDIT).where(AUDIT.c.seq >= 2), "lines 2 to 3 of the audit are gone: the audit's head counts more"),
        (delete(AUDIT), "lines 1 to 3 of the audit are gone: the audit's head counts more"),
        (delete(HEAD), "the audit has no head: its row was removed"),
        (update(HEAD).values(hash="0" * 64), "line 3 of the audit is another than the audit's head says"),
    ],
)
def test_lines_that_are_cut_off_at_the_end_are_missed(
    lines: Database, on_database: Segue, change: Any, says: str
) -> None:
    lines.execute(change)
    ran = on_database("verify", "--json")
    assert ran.code == 1
    assert says in found(ran)


def test_what_is_appended_after_lines_were_cut_off_leaves_the_gap_to_be_seen(
    lines: Database, on_database: Segue
) -> None:
    lines.execute(delete(AUDIT).where(AUDIT.c.seq == 3))
    lines.audit(entry("dan"))
    assert [row.seq for row in lines.rows(select(AUDIT.c.seq).order_by(AUDIT.c.seq))] == [1, 2, 4]
    assert "line 4 of the audit was changed, removed or put in between" in found(on_database("verify", "--json"))


def test_lines_of_a_coordinator_that_knows_no_head_are_taken_into_it(lines: Database, on_database: Segue) -> None:
    last = lines.rows(select(AUDIT).order_by(AUDIT.c.seq.desc()))[0]
    [row] = chain((last.seq, last.hash), [entry("old")])
    lines.execute(insert(AUDIT).values(**row))
    assert on_database("verify").code == 0
    lines.audit(entry("new"))
    assert on_database("audit", "head", "--json").json["lines"] == 5
    assert on_database("verify").code == 0


# --- a head that was kept elsewhere


def rewritten(database: Database, actors: str) -> None:
    """By somebody who may write to the database and knows how it is done."""
    rows = chain((0, GENESIS), [entry(actor) for actor in actors])
    database.execute(delete(AUDIT))
    database.execute(insert(AUDIT), rows)
    database.execute(update(HEAD).values(lines=len(rows), hash=rows[-1]["hash"]))


def test_a_head_kept_elsewhere_shows_that_all_was_written_anew(
    lines: Database, on_database: Segue, tmp_path: Path
) -> None:
    kept = tmp_path / "head"
    kept.write_text(on_database("audit", "head").out, "ascii")
    lines.audit(entry("dan"))
    assert on_database("verify", "--audit-head", f"@{kept}").code == 0
    rewritten(lines, "abcde")
    assert on_database("verify").code == 0
    ran = on_database("verify", "--json", "--audit-head", f"@{kept}")
    assert "line 3 of the audit is another than the head kept elsewhere says" in found(ran)
    rewritten(lines, "ab")
    assert "line 3 of the audit is gone" in found(on_database("verify", "--json", "--audit-head", f"@{kept}"))


@pytest.mark.parametrize("text", ["", "3", "3:abc", "x:" + "0" * 64, "3:" + "0" * 64 + ":x"])
def test_what_is_no_head_is_refused(lines: Database, on_database: Segue, text: str) -> None:
    assert on_database("verify", "--audit-head", text).code == 2
    with pytest.raises(UsageError, match="is no head of an audit"):
        parse_head(text)


def test_a_head_is_read_back_as_it_is_printed() -> None:
    for head in (Head(lines=3, hash="a" * 64), Head(lines=3, hash="a" * 64, mac="b" * 64)):
        assert parse_head(f" {head}\n") == head


# --- a key


def test_a_head_that_is_sealed_can_be_moved_only_by_who_has_the_key(database: Database, on_database: Segue) -> None:
    appended(database, entry("ann"), entry("bob"), key=b"sesame")
    assert on_database("verify", *KEYED).code == 0
    assert on_database("verify").code == 0
    rewritten(database, "a")
    assert on_database("verify").code == 0
    assert "sealed with another key, or changed by hand" in found(on_database("verify", "--json", *KEYED))
    database.execute(update(HEAD).values(mac=None))
    assert "the audit's head is not sealed" in found(on_database("verify", "--json", *KEYED))


def test_a_line_behind_a_sealed_head_is_told(database: Database, on_database: Segue) -> None:
    appended(database, entry("ann"), key=b"sesame")
    last = database.rows(select(AUDIT))[0]
    database.execute(insert(AUDIT), chain((last.seq, last.hash), [entry("mallory")]))
    assert "1 lines at the end of the audit are not covered" in found(on_database("verify", "--json", *KEYED))


def test_the_head_is_printed_with_its_seal_and_the_key_never(database: Database, on_database: Segue) -> None:
    appended(database, entry("ann"), key=b"sesame")
    printed = on_database("audit", "head", *KEYED)
    head = parse_head(printed.out)
    assert head.mac == seal(b"sesame", head.lines, head.hash)
    assert head.sealed_with(b"sesame")
    assert not head.sealed_with(b"other")
    config = on_database("config", *KEYED)
    assert "coordinator.audit_key" in config.out
    assert "sesame" not in printed.out + printed.err + config.out + config.err


# --- who


def test_who_acts_is_recorded_as_the_system_knows_it_beside_what_is_said(
    database: Database, on_database: Segue
) -> None:
    database.put(deferred("order-2"))
    with coordinating(database.url):
        ran = on_database("saga", "retry", "order-2", "--actor", "the pope", "--reason", "why not")
    assert ran.code == 0, ran.err
    [line] = database.rows(select(AUDIT))
    name = pwd.getpwuid(os.getuid()).pw_name
    assert (line.actor, line.system_user.partition("@")[0], line.database_role) == ("the pope", name, None)
    assert f"the pope (system user {name}@" in on_database("saga", "show", "order-2").out
    assert on_database("verify").code == 0
    database.execute(update(AUDIT).values(system_user="eve@x"))
    assert "line 1 of the audit was changed" in found(on_database("verify", "--json"))
    database.execute(update(AUDIT).values(system_user=None))
    assert "line 1 of the audit was changed" in found(on_database("verify", "--json"))


def test_the_hash_of_a_line_without_them_is_that_of_older_versions() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    plain = AuditEntry(at=at, actor="ann", action="retry", saga_id="order-1", reason="é", request_id=7)
    [row] = chain(None, [plain])
    assert row["hash"] == "2462eb3000740a808ad6f40ac715561b20706e292b82c92f63dc3c44b63558c5"
    [named] = chain(None, [dataclasses.replace(plain, system_user="ann@host")])
    assert named["hash"] != row["hash"]
