from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Session

from examples.database import engine_of

#: (service, its tables, rows) → the URL of a database that holds them.
Fill = Callable[[str, type[DeclarativeBase], list[Any]], str]


@pytest.fixture
def books(tmp_path: Path) -> Fill:
    def fill(service: str, base: type[DeclarativeBase], rows: list[Any]) -> str:
        url = f"sqlite:///{tmp_path / service}.sqlite"
        with _session(url, base) as session:
            session.add_all(rows)
        return url

    return fill


@contextmanager
def _session(url: str, base: type[DeclarativeBase]) -> Iterator[Session]:
    engine = engine_of(url)
    try:
        base.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()
