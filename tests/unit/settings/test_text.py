from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.settings.durations import format_duration, parse_duration
from segue.settings.masking import is_secret_property, mask_url
from segue.settings.reference import settings_page

DOCS = Path(__file__).resolve().parents[3] / "docs/reference/settings.md"


@given(st.timedeltas(min_value=timedelta(), max_value=timedelta(days=10_000)))
def test_a_duration_is_read_back_as_it_was_written(duration: timedelta) -> None:
    whole = timedelta(milliseconds=duration // timedelta(milliseconds=1))
    assert parse_duration(format_duration(whole)) == whole


@pytest.mark.parametrize("text", ["", "s", "5 x", "-3s", "1h 5", "1e9s", "٣s", "nan", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration like"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://ann:pw@host:5432/db", "postgresql+psycopg://ann:***@host:5432/db"),
        ("postgresql://ann:p@s:/?#w@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://:pw@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?password=pw&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
        ("postgresql://host/db?user=u&sslpassword=pw", "postgresql://host/db?user=u&sslpassword=***"),
        ("postgresql://ann@host:5432/db", "postgresql://ann@host:5432/db"),
        ("sqlite:///.segue/segue.db", "sqlite:///.segue/segue.db"),
    ],
)
def test_the_password_of_a_url_is_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(password=st.text(st.characters(blacklist_categories=("Z", "C")), min_size=6).map(lambda text: f"Q{text}Q"))
def test_no_password_shows_through(password: str) -> None:
    assert password not in mask_url(f"postgresql://ann:{password}@host/db")


def test_secret_properties_are_known() -> None:
    secret = [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
    ]
    plain = ["sasl.username", "security.protocol", "ssl.ca.location", "linger.ms"]
    assert [name for name in secret if not is_secret_property(name)] == []
    assert [name for name in plain if is_secret_property(name)] == []


def test_the_reference_of_all_settings_is_up_to_date() -> None:
    """`segue config --doc > docs/reference/settings.md` makes it."""
    assert DOCS.read_text("utf-8") == settings_page()
