from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.cli.kit import Database, Ran, segue


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the settings of the checkout, or leaves files in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGUE_CONFIG", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)  # xdist sets it


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = Database(sqlite_url)
    yield made
    made.close()


@pytest.fixture
def on_database(database: Database) -> Callable[..., Ran]:
    """Run a command on the database of this test."""
    return lambda *arguments, **more: segue(*arguments, "--database", database.url, **more)
