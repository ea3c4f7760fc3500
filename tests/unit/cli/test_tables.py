"""Tables in terminals of every width: no word is broken while there is room."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from rich.text import Text

from segue.cli.bench.run import rate_of
from segue.cli.out import Out, column_widths, precise
from tests.unit.cli.kit import Database, Ran, deferred, shipping

HEADERS = ("id", "status", "attention", "waiting for")
ROWS = [
    ("order-17", "compensating", "deferred", "a person: the compensation of payments.charge is spent"),
    ("o-2", "running", "none", None),
]


def printed(capsys: pytest.CaptureFixture[str], width: int) -> str:
    Out(width=width).table(HEADERS, ROWS)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", range(50, 130, 10))
def test_no_word_is_broken_and_no_line_is_too_long(capsys: pytest.CaptureFixture[str], width: int) -> None:
    text = printed(capsys, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("order-17", "compensating", "deferred", "payments.charge", "compensation"):
        assert word in text


def test_a_terminal_that_is_too_narrow_gets_the_rows_one_below_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, 40).splitlines()
    assert lines[0] == "order-17"
    assert lines[1].split() == ["status", "compensating"]


def test_a_column_that_says_nothing_takes_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    Out(width=80).table(("id", "error", "status"), [("a", None, "running"), ("b", "-", "running")])
    assert capsys.readouterr().out.splitlines()[0].split() == ["id", "status"]


def test_widths_are_what_is_there_where_all_fits_and_give_the_rest_to_long_texts() -> None:
    rows = [[Text("a"), Text("bb bb")], [Text("aaa"), Text("b" * 4 + " " + "b" * 9)]]
    assert column_widths(rows, 80) == [3, 14]
    assert column_widths(rows, 15) == [3, 10]
    assert column_widths(rows, 12) is None


def test_lists_at_80_columns_break_no_word(
    database: Database, monkeypatch: pytest.MonkeyPatch, on_database: Callable[..., Ran]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    database.put(shipping("order-1"), deferred("order-2"))
    for command in (("saga", "ls"), ("saga", "show", "order-2")):
        text = on_database(*command).out
        for word in ("order", "deferred", "compensating", "payments.charge", "sold_out"):
            assert word in text, text


def test_what_happened_within_a_second_has_a_time_of_its_own(
    database: Database, on_database: Callable[..., Ran]
) -> None:
    assert precise(datetime(2026, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)) == "2026-01-02 03:04:05.006Z"
    database.put(shipping("order-1"))
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3}Z  payments.charge succeeded", on_database("saga", "show", "order-1").out)


# Rates


def test_the_rate_of_few_sagas_that_end_in_a_burst_is_that_of_the_whole_time() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    burst = [(start, start + timedelta(seconds=10, milliseconds=n)) for n in range(100)]
    assert rate_of(burst, under_way=500) == pytest.approx(100 / 10.099)


def test_the_rate_of_many_is_that_of_the_steady_load() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    steady = [(start + timedelta(seconds=n), start + timedelta(seconds=n + 5)) for n in range(1000)]
    assert rate_of(steady, under_way=5) == pytest.approx(1.0)
