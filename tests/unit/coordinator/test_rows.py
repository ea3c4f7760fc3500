"""Rows to columns and back; what a batch nets out to; array literals for PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.coordinator import postgres_batch as literals
from segue.coordinator import schema
from segue.coordinator.rows import (
    check_values,
    dead_letter_of,
    dead_letter_values,
    headers_from_json,
    headers_to_json,
    net_rows,
)
from segue.coordinator.store import Changes
from segue.errors import Fenced, RejectedWrite
from tests.conformance.store_kit import alone, letter, saga

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
_HEADERS = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.binary()))


@given(_HEADERS)
def test_headers_keep_order_repetition_and_bytes(pairs: list[tuple[str, bytes | None]]) -> None:
    assert headers_from_json(headers_to_json(tuple(pairs))) == tuple(pairs)


def test_a_dead_letter_is_the_same_after_columns_and_back() -> None:
    row = letter(7, saga_id="o-1")
    assert dead_letter_of(dead_letter_values(row) | {"id": 0}) == row


# Net rows


def test_a_saga_that_moved_several_times_is_written_once_from_its_first_revision_to_its_last() -> None:
    rows = [saga(revision=n, step=str(n)) for n in (5, 6, 7)]
    net = net_rows(Changes(updated=rows))
    assert net.inserts == []
    assert net.updates == [(4, rows[-1])]


def test_a_saga_that_moved_in_the_batch_that_started_it_is_inserted_as_it_ended() -> None:
    net = net_rows(Changes(started=[saga("b"), saga("a")], updated=[saga("b", revision=2)]))
    assert net.inserts == [saga("a"), saga("b", revision=2)]
    assert net.updates == []


def test_the_expected_revision_counts_for_the_first_row_of_a_saga() -> None:
    net = net_rows(Changes(updated=[saga(revision=9), saga(revision=10)], expected={"o-1": 3}))
    assert net.updates == [(3, saga(revision=10))]


@pytest.mark.parametrize(
    "changes",
    [
        Changes(started=[saga(), saga()]),
        Changes(updated=[saga(revision=2), saga(revision=4)]),
        Changes(updated=[saga(revision=2), saga(revision=2)]),
        Changes(started=[saga()], updated=[saga(revision=3)]),
    ],
)
def test_revisions_that_do_not_follow_each_other_are_fenced(changes: Changes) -> None:
    with pytest.raises(Fenced):
        net_rows(changes)


# Values


@pytest.mark.parametrize(
    "values",
    [
        {"attempt": 2**31 - 1},
        {"attempt": -(2**31)},
        {"revision": 2**63 - 1},
        {"tenant": "é" * 120},
        {"step": None},
        {"error_message": "x" * 100_000},
    ],
)
def test_values_at_the_limit_are_taken(values: dict[str, Any]) -> None:
    check_values(schema.saga, values)


@pytest.mark.parametrize(
    "values",
    [{"attempt": 2**31}, {"revision": -(2**63) - 1}, {"tenant": "é" * 121}, {"step": "\x00"}, {"step": "\udc80"}],
)
def test_values_beyond_the_limit_are_rejected(values: dict[str, Any]) -> None:
    with pytest.raises(RejectedWrite, match=f"saga.{next(iter(values))}"):
        check_values(schema.saga, values)


# Array literals

_IST = timezone(timedelta(hours=5, minutes=30))
_MOMENTS = st.timedeltas(timedelta(days=-700_000), timedelta(days=2_900_000)).flatmap(
    lambda since: st.sampled_from([(datetime(2000, 1, 1, tzinfo=UTC) + since).astimezone(zone) for zone in (UTC, _IST)])
)


@pytest.fixture(scope="module")
def cursor(request: pytest.FixtureRequest) -> Any:
    with alone(request.getfixturevalue("postgres_admin_url")) as connection:
        yield connection.connection.driver_connection.cursor(binary=True)


_AGAIN = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@pytest.mark.parametrize(
    ("literal", "element", "values"),
    [
        (literals.texts, "text", _TEXT),
        (literals.texts, "text", st.none() | _TEXT),
        (literals.blobs, "bytea", st.none() | st.binary()),
        (literals.numbers, "bigint", st.none() | st.integers(-(2**63), 2**63 - 1)),
        (literals.booleans, "boolean", st.booleans()),
        (literals.moments, "timestamptz", st.none() | _MOMENTS),
    ],
    ids=["texts", "texts or null", "blobs", "numbers", "booleans", "moments"],
)
def test_postgresql_reads_an_array_literal_as_what_it_was_made_from(
    cursor: Any, literal: Any, element: str, values: Any
) -> None:
    @_AGAIN
    @given(st.lists(values))
    def check(wanted: list[Any]) -> None:
        cursor.execute(f"SELECT %s::{element}[]", [literal(wanted)])
        assert cursor.fetchone()[0] == wanted

    check()


def test_a_nul_anywhere_in_a_column_of_texts_is_rejected() -> None:
    for values in (["\x00"], ["a", "b\x00"], ["\x00", "\x00"], ["a\x00b", "c", ""]):
        with pytest.raises(RejectedWrite):
            literals.texts(values)
