"""Fixtures for real parts. A test that asks for one is marked with its name and can be selected by it.

`make test` starts the parts (`tests.real.run`); the fixtures only read where they are. Where a part is missing its
tests are skipped with the reason, and counted in one line at the end; with CI=true they fail.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings
from sqlalchemy import make_url

from tests.real.kafka import Kafka
from tests.real.mariadb import MariaDb, run_statement
from tests.real.pgbouncer import PgBouncer
from tests.real.postgres import Postgres, create_database, drop_database
from tests.real.process import Server

NOT_RUN = "not run: "

#: Fixture → marker, kind of server, variable that says where it is.
PARTS: dict[str, tuple[str, type[Server], str]] = {
    "kafka_bootstrap": ("kafka", Kafka, "SEGUE_TEST_KAFKA"),
    "postgres_url": ("postgres", Postgres, "SEGUE_TEST_POSTGRES"),
    "postgres_admin_url": ("postgres", Postgres, "SEGUE_TEST_POSTGRES"),
    "mariadb_admin_url": ("mariadb", MariaDb, "SEGUE_TEST_MARIADB"),
    "mariadb_url": ("mariadb", MariaDb, "SEGUE_TEST_MARIADB"),
}

# Examples share two cores with real servers, so a deadline would measure those. In CI the same examples every time.
settings.register_profile("shared-machine", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("shared-machine"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "shared-machine")

# pytest-xdist sets it for its workers, and tables would be laid out for its width instead of for what a test says.
os.environ.pop("COLUMNS", None)

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in PARTS:
                item.add_marker(PARTS[fixture][0])


@pytest.fixture(scope="session")
def kafka_bootstrap() -> str:
    """The bootstrap address of a real Kafka that all tests share: use topic and group names of your own."""
    return _address("kafka_bootstrap")


@pytest.fixture(scope="session")
def postgres_admin_url() -> str:
    """SQLAlchemy URL of a database in which others can be created."""
    return _address("postgres_admin_url")


@pytest.fixture
def postgres_url(postgres_admin_url: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database of this test alone, dropped at its end."""
    # Copying a template takes 50 ms with durable commits on, dropping 40 ms: not worth sharing databases for.
    name = f"segue_test_{os.getpid()}_{next(_numbers)}"
    create_database(postgres_admin_url, name)
    yield f"{postgres_admin_url.rpartition('/')[0]}/{name}"
    drop_database(postgres_admin_url, name)


@pytest.fixture(scope="session")
def mariadb_admin_url() -> str:
    """SQLAlchemy URL of a database of MariaDB; others can be created beside it."""
    return _address("mariadb_admin_url")


@pytest.fixture
def mariadb_url(mariadb_admin_url: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty MariaDB database of this test alone, with the server's usual collation."""
    name = f"segue_test_{os.getpid()}_{next(_numbers)}"
    run_statement(mariadb_admin_url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    yield make_url(mariadb_admin_url).set(database=name).render_as_string(hide_password=False)
    run_statement(mariadb_admin_url, f"DROP DATABASE {name}")


@pytest.fixture
def pooled_url(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`postgres_url` behind a PgBouncer of this test alone, which gives each transaction another session."""
    if reason := PgBouncer.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"this test needs pgbouncer: {reason}", pytrace=False)
        pytest.skip(NOT_RUN + reason)
    pooler = PgBouncer(f"test-{os.getpid()}-{next(_numbers)}", upstream=postgres_url)
    pooler.start(fresh=True)
    try:
        yield pooler.address
    finally:
        pooler.remove()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLAlchemy URL of a SQLite file of this test alone."""
    return f"sqlite:///{tmp_path / 'segue.sqlite'}"


def _address(fixture: str) -> str:
    _, kind, variable = PARTS[fixture]
    return os.environ.get(variable) or _refuse(kind, variable)


def _refuse(kind: type[Server], variable: str) -> NoReturn:
    reason = kind.missing() or f"{variable} is not set (`make test` starts {kind.kind} and sets it)"
    if os.environ.get("CI") == "true":
        pytest.fail(f"this test needs {kind.kind}: {reason}", pytrace=False)
    pytest.skip(NOT_RUN + reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NOT_RUN in text:
            reason = text.partition(NOT_RUN)[2]
            counts[reason] = counts.get(reason, 0) + 1
    for reason, count in sorted(counts.items()):
        terminalreporter.write_line(f"{count} tests {NOT_RUN}{reason}", yellow=True)
