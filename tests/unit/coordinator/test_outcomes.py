"""What each error of the database means."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from segue.coordinator.outcomes import OWN_CONSTRAINTS, outcome_of
from segue.coordinator.store import Unfit
from segue.errors import Fenced, RejectedWrite, SegueError, StoreUnavailable


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", StoreUnavailable),
        ("40001", StoreUnavailable),
        ("40P01", StoreUnavailable),
        ("53100", StoreUnavailable),
        ("53300", StoreUnavailable),
        ("57014", StoreUnavailable),
        ("57P01", StoreUnavailable),
        ("58030", StoreUnavailable),
        ("55P03", StoreUnavailable),
        ("25P03", StoreUnavailable),
        ("25006", StoreUnavailable),
        ("22001", RejectedWrite),
        ("22003", RejectedWrite),
        ("22021", RejectedWrite),
        ("23502", RejectedWrite),
        ("23505", RejectedWrite),  # of a constraint that is not ours
        ("54000", RejectedWrite),
        ("42P01", Unfit),
        ("0A000", StoreUnavailable),
        ("42501", Unfit),
    ],
)
def test_a_sqlstate_of_postgresql_has_its_meaning(state: str, kind: type[SegueError]) -> None:
    error = errors.lookup(state)("boom\nDETAIL: more")

    found = outcome_of(error)

    assert type(found) is kind
    assert "boom" in str(found)
    assert state in str(found)
    assert "DETAIL" not in str(found)


def test_a_mistake_in_our_own_sql_is_not_hidden() -> None:
    assert outcome_of(errors.SyntaxError("at or near")) is None
    assert outcome_of(errors.InFailedSqlTransaction("aborted")) is None
    assert outcome_of(sqlite3.OperationalError('near "SELEC": syntax error')) is None
    assert outcome_of(ValueError("unrelated")) is None
    assert outcome_of(psycopg.ProgrammingError("the query has 1 placeholder but 0 parameters")) is None


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        PoolTimeout("QueuePool limit"),
        ConnectionResetError("reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_connection_is_unavailable(error: Exception) -> None:
    assert type(outcome_of(error)) is StoreUnavailable


@pytest.mark.parametrize(
    "error",
    [
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        OverflowError("Python int too large to convert to SQLite INTEGER"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_the_driver_can_not_encode_is_rejected(error: Exception) -> None:
    assert type(outcome_of(error)) is RejectedWrite


def test_what_sqlalchemy_wraps_means_what_is_inside() -> None:
    inner = psycopg.DataError("NUL")
    assert type(outcome_of(StatementError("m", "s", {}, UnicodeEncodeError("utf-8", "x", 0, 1, "r")))) is RejectedWrite
    assert type(outcome_of(OperationalError("s", {}, inner))) is RejectedWrite
    lost = OperationalError("s", {}, psycopg.OperationalError("gone"), connection_invalidated=True)
    assert type(outcome_of(lost)) is StoreUnavailable


def test_our_constraints_are_known_by_the_names_that_postgresql_gives_them() -> None:
    assert {
        "saga_pkey",
        "saga_event_pkey",
        "saga_event_message",
        "outbox_id_key",
        "dead_letter_origin",
        "consumer_offset_pkey",
        "definition_pkey",
    } <= OWN_CONSTRAINTS


def _raised(connection: sqlite3.Connection, statement: str, *parameters: Any) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement, parameters)
    return caught.value


def test_the_errors_of_sqlite_have_their_meaning(tmp_path: Path) -> None:
    file = tmp_path / "db"
    first, second = sqlite3.connect(file, timeout=0), sqlite3.connect(file, timeout=0)
    try:
        first.isolation_level = second.isolation_level = None
        first.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL CHECK (name <> 'x'))")
        first.execute("INSERT INTO t VALUES (1, 'a')")
        meanings = [
            (_raised(first, "INSERT INTO t VALUES (1, 'b')"), Fenced),
            (_raised(first, "INSERT INTO t VALUES (2, 'a')"), Fenced),
            (_raised(first, "INSERT INTO t VALUES (2, NULL)"), RejectedWrite),
            (_raised(first, "INSERT INTO t VALUES (2, 'x')"), RejectedWrite),
            (_raised(first, "INSERT INTO t VALUES ('text', 'b')"), RejectedWrite),
            (_raised(first, "INSERT INTO nowhere VALUES (1)"), Unfit),
            (_raised(first, "SELECT lost FROM t"), Unfit),
        ]
        first.execute("BEGIN IMMEDIATE")
        meanings.append((_raised(second, "BEGIN IMMEDIATE"), StoreUnavailable))
        first.execute("ROLLBACK")
        first.execute("PRAGMA query_only = 1")
        meanings.append((_raised(first, "INSERT INTO t VALUES (3, 'c')"), Unfit))
    finally:
        first.close()
        second.close()

    for error, kind in meanings:
        assert type(outcome_of(error)) is kind, error


def test_an_integrity_error_of_a_foreign_constraint_is_rejected_not_run_again_for_ever() -> None:
    error = IntegrityError("s", {}, errors.UniqueViolation("their_own_index"))
    assert type(outcome_of(error)) is RejectedWrite
