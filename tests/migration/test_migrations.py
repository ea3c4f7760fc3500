"""The schema is the sum of the migrations, on both databases, however often and by how many they are run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, String, create_engine, inspect, text
from sqlalchemy.pool import NullPool

import segue.migrations
from segue.coordinator.schema import metadata
from segue.migrations import check, current, head, runner, sql, upgrade

PACKAGE = Path(segue.migrations.__file__).parent
VERSIONS = sorted(path for path in (PACKAGE / "versions").glob("*.py"))


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def _compared(context: Any, inspected: Any, declared: Any, inspected_type: Any, declared_type: Any) -> bool | None:
    """SQLite knows no lengths: to change one it would copy the table."""
    texts = isinstance(inspected_type, String) and isinstance(declared_type, String)
    return False if context.dialect.name == "sqlite" and texts else None


def differences(connection: Connection) -> list[Any]:
    # SQLite reports no identity columns: its INTEGER keys count by themselves.
    defaults = connection.dialect.name == "postgresql"
    options = {"version_table": runner.VERSION_TABLE, "compare_type": _compared, "compare_server_default": defaults}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_declared_tables_are_the_sum_of_the_migrations(url: str) -> None:
    upgrade(url)

    with connected(url) as connection:
        assert differences(connection) == []


def test_a_database_is_at_no_revision_before_and_at_the_newest_after(url: str) -> None:
    assert current(url) is None
    assert check(url) == ["The database has no tables of Segue yet; run `segue db upgrade`."]

    upgrade(url)

    assert current(url) == head() == VERSIONS[-1].stem
    assert check(url) == []


def test_an_upgrade_of_an_upgraded_database_changes_nothing(url: str) -> None:
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text("INSERT INTO definition VALUES ('order', 1, 'f', NULL, '2026-01-01 00:00:00')"))

    upgrade(url)

    with connected(url) as connection:
        assert connection.execute(text("SELECT count(*) FROM definition")).scalar_one() == 1


def test_four_upgrades_at_once_all_succeed_and_leave_one_schema(url: str) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(4)

    def run() -> None:
        try:
            together.wait(10)
            subprocess.run(
                [sys.executable, "-W", "error", "-c", f"from segue.migrations import upgrade; upgrade({url!r})"],
                check=True,
                capture_output=True,
                timeout=60,
            )
        except BaseException as error:  # noqa: BLE001 - reported by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert check(url) == []


def test_a_coordinator_finds_a_new_sqlite_file_in_the_mode_it_needs(sqlite_url: str) -> None:
    upgrade(sqlite_url)

    with connected(sqlite_url) as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def test_a_failing_migration_leaves_nothing_behind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        raise RuntimeError("killed")

    monkeypatch.setattr(runner, "_upgrade", fail)
    with pytest.raises(RuntimeError):
        upgrade(url)

    with connected(url) as connection:
        assert inspect(connection).get_table_names() == []


def test_our_revision_lives_beside_the_users_own_alembic(url: str) -> None:
    with connected(url) as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))

    upgrade(url)

    assert current(url) == head()
    with connected(url) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["theirs"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("DROP TABLE correlation", "Table correlation is missing."),
        ("ALTER TABLE saga DROP COLUMN parent_id", "Column saga.parent_id is missing."),
        ("DROP INDEX saga_alarm_at", "Index saga_alarm_at on saga is missing."),
    ],
)
def test_the_check_names_what_is_missing(url: str, damage: str, sentence: str) -> None:
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text(damage))

    assert check(url) == [sentence]


def test_a_database_ahead_of_this_version_is_no_difference(url: str) -> None:
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text("UPDATE segue_version SET version_num = '9999_pre_later'"))
        connection.execute(text("ALTER TABLE saga ADD COLUMN later INTEGER"))

    assert check(url) == []


def test_a_revision_that_is_none_of_ours_is_named(url: str) -> None:
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text("UPDATE segue_version SET version_num = '0000_what'"))

    assert check(url) == ["The database is at revision 0000_what, which is none of Segue's."]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///nowhere/at-all.sqlite", "BLOB"),
        ("postgresql+psycopg://nobody@nowhere.invalid/x", "TIMESTAMP WITH TIME ZONE"),
    ],
)
def test_the_statements_can_be_had_without_a_database(url: str, expected: str) -> None:
    script = sql(url)

    assert script.count("CREATE TABLE") == len(metadata.tables) + 1
    assert expected in script
    numbers = re.findall(r"(?:VALUES \(|SET version_num=)'(\w+)'", script)
    assert numbers == [path.stem for path in VERSIONS]


def test_the_printed_statements_make_the_declared_tables(postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        connection.exec_driver_sql(sql(postgres_url).replace("%", "%%"))

        assert differences(connection) == []
    assert check(postgres_url) == []


def test_busy_tables_leave_room_and_are_vacuumed_early(postgres_url: str) -> None:
    upgrade(postgres_url)

    with connected(postgres_url) as connection:
        rows = connection.execute(text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL")).all()
    options = {name: set(values) for name, values in rows}
    assert "fillfactor=50" in options["saga"]
    assert {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=2000"} <= options["outbox"]


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_is_named_by_number_phase_and_purpose_and_stands_alone(path: Path) -> None:
    number, phase, what = path.stem.split("_", 2)
    assert len(number) == 4
    assert number.isdigit()
    assert phase in {"pre", "post"}
    assert what
    assert len(path.stem) <= 32, "Alembic's version table has 32 characters"
    tree = ast.parse(path.read_text("utf-8"))
    revisions = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.targets[0].id == "revision"  # type: ignore[attr-defined]
    ]
    assert revisions == [path.stem]
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "alembic", "sqlalchemy"}


def test_an_audit_that_was_there_before_it_had_a_head_gets_one(url: str) -> None:
    from alembic import command

    with runner._transaction(url) as connection:
        config = runner._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002_pre_runs")
        for seq in (1, 2):
            connection.execute(
                text(
                    "INSERT INTO audit (seq, at, actor, action, reason, outcome, previous_hash, hash)"
                    f" VALUES ({seq}, '2026-01-01 00:00:00', 'ann', 'retry', '', 'done', 'p', 'hash-{seq}')"
                )
            )
        command.upgrade(config, "head")

        assert connection.execute(text("SELECT lines, hash, mac FROM audit_head")).all() == [(2, "hash-2", None)]


def test_a_downgrade_leaves_no_table(url: str) -> None:
    from alembic import command

    with runner._transaction(url) as connection:
        config = runner._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.downgrade(config, "base")

        assert inspect(connection).get_table_names() == [runner.VERSION_TABLE]


def test_everything_that_runs_a_migration_is_package_data() -> None:
    """The wheel takes whole folders; what lies outside this one would be missing from it."""
    assert {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} >= {
        "__init__.py",
        "env.py",
        "runner.py",
        "versions/0001_pre_initial.py",
        "versions/0002_pre_runs.py",
        "versions/0003_pre_audit_head.py",
    }
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert '"migrations/segue"' in pyproject
    assert runner._config().get_main_option("script_location") == str(PACKAGE)


def _at(url: str, revision: str) -> None:
    from alembic import command

    with runner._transaction(url) as connection:
        config = runner._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _with_sagas_of(url: str, *coordinators: str) -> None:
    """A database of the version before, which these coordinators have read from."""
    _at(url, "0002_pre_runs")
    with connected(url) as connection:
        for name in coordinators:
            connection.execute(text(f"INSERT INTO consumer_offset VALUES ('{name}', 'replies', 0, 5, 't')"))
            connection.execute(text(f"INSERT INTO consumer_offset VALUES ('{name}', 'replies', 1, 5, 't')"))
        _start(connection, "before")
    upgrade(url)
    with connected(url) as connection:
        _start(connection, "after")  # a coordinator of the version before goes on


def _start(connection: Connection, saga_id: str) -> None:
    columns = "id, definition, version, tenant, attributes, input, started_at, status, attention, attempt, updated_at"
    moment = "'2026-01-01 00:00:00'"
    values = f"'{saga_id}', 'order', 1, '', '{{}}', 'x', {moment}, 'running', 'none', 0, {moment}, 1, "
    undriven = "false" if connection.dialect.name == "postgresql" else "0"
    connection.execute(text(f"INSERT INTO saga ({columns}, revision, undriven) VALUES ({values}{undriven})"))


def _owners(url: str) -> dict[str, str]:
    with connected(url) as connection:
        return {row.id: row.coordinator for row in connection.execute(text("SELECT id, coordinator FROM saga"))}


def test_the_sagas_of_a_database_with_one_coordinator_become_its_own(url: str) -> None:
    _with_sagas_of(url, "orders")

    assert _owners(url) == {"before": "orders", "after": ""}
    with connected(url) as connection:
        assert differences(connection) == []


def test_where_there_were_several_coordinators_none_is_guessed(url: str) -> None:
    _with_sagas_of(url, "orders", "returns")

    assert _owners(url) == {"before": "", "after": ""}


def _with_code_of(url: str, *coordinators: str) -> list[tuple[str, str, int, str]]:
    """What is on record of whose code, after coordinators of the version before were there."""
    _at(url, "0011_pre_expected_signals")
    with connected(url) as connection:
        for name in coordinators:
            columns = '(coordinator, topic, "partition", next, topic_id)'
            connection.execute(text(f"INSERT INTO consumer_offset {columns} VALUES ('{name}', 'replies', 0, 5, 't')"))
        connection.execute(text("INSERT INTO definition VALUES ('order', 1, 'f', NULL, '2026-01-01 00:00:00')"))
    upgrade(url)
    with connected(url) as connection:
        query = text("SELECT coordinator, name, version, fingerprint FROM definition_fingerprint")
        return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def test_the_code_of_a_database_with_one_coordinator_becomes_its_own(url: str) -> None:
    assert _with_code_of(url, "orders") == [("orders", "order", 1, "f")]


def test_the_code_of_several_coordinators_is_given_to_none(url: str) -> None:
    assert _with_code_of(url, "orders", "returns") == []
