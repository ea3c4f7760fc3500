from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cli.escape import escape, excerpt
from segue.cli.out import Out, relative
from tests.unit.cli.kit import utc


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert all(character.isprintable() or character == "\u3000" or character.isspace() for character in escape(text))
    assert not set(escape(text)) & set("\n\r\x1b\x9b\u202e\u2028")


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_visible_text_is_left_as_it_is(text: str) -> None:
    assert escape(text) == text


def test_long_text_is_cut() -> None:
    assert escape("a" * 5000) == "a" * 2000 + "…"


@given(st.binary())
def test_any_payload_has_an_excerpt(payload: bytes) -> None:
    assert "\x1b" not in excerpt(payload)


def test_bytes_that_are_no_text_are_shown_as_numbers() -> None:
    assert excerpt(b"\x00\xff") == "2 bytes, no text: 00 ff"
    assert excerpt(None) == "none"


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (timedelta(seconds=-0.25), "250ms ago"),
        (timedelta(seconds=42), "in 42s"),
        (timedelta(minutes=4, seconds=10), "in 4m10s"),
        (timedelta(hours=-3), "3h ago"),
        (timedelta(days=2, hours=5, minutes=9), "in 2d5h"),
    ],
)
def test_times_are_told_relative_to_now(delta: timedelta, text: str) -> None:
    now = utc(2026, 11, 21)
    assert relative(now + delta, now) == text


def test_a_progress_bar_shows_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Out().progress("work", 3) as advance:
        advance()
        advance(2, total=5)
    assert capsys.readouterr() == ("", "")
