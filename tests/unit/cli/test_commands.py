"""`segue config|db|topics|init` and the sentences for everything that is not as it should be."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from segue.cli.init import FILES
from segue.settings.embedded import write_broker_file
from tests.unit.cli.kit import Database, segue


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Path]:
    """A user's modules, forgotten at the end of the test."""
    before = set(sys.modules)
    path = list(sys.path)
    segue("init", str(tmp_path))
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name in ("contracts", "sagas", "payments", "broken", "empty", "needy", "wrong"):
            del sys.modules[name]


def test_config_prints_values_and_origins_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segue.toml").write_text('[kafka.properties]\n"sasl.password" = "s3cret"\n', "utf-8")
    monkeypatch.setenv("SEGUE_COORDINATOR_DATABASE", "postgresql://ann:s3cret@db/segue")
    ran = segue("config", "--json", "--set", "coordinator.name=shop")
    found = {one["name"]: (one["value"], one["source"], one["from"]) for one in ran.json["settings"]}
    assert "s3cret" not in ran.out + segue("config").out
    assert found["coordinator.database"] == (
        "postgresql://ann:***@db/segue",
        "environment",
        "SEGUE_COORDINATOR_DATABASE",
    )
    assert found["kafka.properties.sasl.password"] == ("***", "file", "segue.toml")
    assert found["coordinator.name"] == ("shop", "flag", "--set coordinator.name")
    assert found["topics.partitions"] == ("12", "default", "")


def test_wrong_settings_end_with_code_2_and_one_sentence_each() -> None:
    ran = segue("saga", "ls", "--set", "coordinator.batch_size=0", "--set", "kafka.bootstrp=x")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "error: coordinator.batch_size (--set coordinator.batch_size) is '0', expected a whole number from 1 to 1,000",
        "error: --set kafka.bootstrp: there is no setting kafka.bootstrp; did you mean kafka.bootstrap?",
    ]
    assert segue("config", "--set", "nonsense").err == "error: --set 'nonsense': write it as --set section.name=value\n"


def test_a_saga_type_that_nobody_has_ends_with_code_4(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(modules)
    ran = segue("saga", "start", "ordr", "{}")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == "error: no saga is called 'ordr'; did you mean order?; known here: order\n"


def test_an_error_as_json_is_one_object_on_stderr() -> None:
    ran = segue("saga", "ls", "--json", "--set", "nonsense")
    assert ran.out == ""
    assert json.loads(ran.err)["error"]["code"] == "config"


def test_a_warning_about_settings_leaves_stdout_alone(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setenv("SEGUE_COORDINATOR_DATABSE", "x")
    ran = segue("saga", "ls", "--json", "--database", database.url)
    assert ran.json == {"sagas": [], "next": None}
    assert ran.err == "warning: SEGUE_COORDINATOR_DATABSE sets nothing; did you mean SEGUE_COORDINATOR_DATABASE?\n"


@pytest.mark.parametrize(
    "command", [("saga", "ls"), ("saga", "show", "x"), ("dlq", "ls"), ("verify",), ("db", "current")]
)
def test_a_database_that_is_not_there_is_never_made_by_reading(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "segue.toml").touch()
    ran = segue(*command)
    assert ran.code == 2
    assert ran.err == (
        f"error: there is no database sqlite:///.segue/segue.db (in {tmp_path}); "
        "run `segue db upgrade` to make it, or set coordinator.database\n"
    )
    assert not (tmp_path / ".segue").exists()


def test_a_database_without_the_schema_is_told_what_to_do(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE other (id INTEGER)"))
    engine.dispose()
    ran = segue("saga", "ls", "--database", sqlite_url)
    assert ran.code == 2
    assert "lacks Segue's tables, or has older ones; run `segue db upgrade`" in ran.err


def test_a_database_that_does_not_answer_is_unavailable_and_its_password_stays_hidden(closed_port: int) -> None:
    url = f"postgresql+psycopg://ann:s3cret@127.0.0.1:{closed_port}/segue"
    for command in (("saga", "ls"), ("db", "current"), ("db", "upgrade"), ("saga", "retry", "x")):
        ran = segue(*command, "--database", url)
        assert ran.code == 3, ran.err
        assert f"cannot read the database postgresql+psycopg://ann:***@127.0.0.1:{closed_port}/segue: " in ran.err
        assert "s3cret" not in ran.err


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "coordinator.database is not the URL of a database: expected postgresql+psycopg://"),
        ("mysql://ann:s3cret@h/db", "coordinator.database is mysql://ann:***@h/db: expected postgresql+psycopg://"),
    ],
)
def test_a_url_that_cannot_be_used_is_said(url: str, sentence: str) -> None:
    ran = segue("saga", "ls", "--database", url)
    assert ran.code == 2
    assert sentence in ran.err
    assert "s3cret" not in ran.err


def test_the_schema_is_made_checked_and_printed(sqlite_url: str) -> None:
    first = segue("db", "upgrade", "--database", sqlite_url, "--json")
    assert (first.code, first.json["before"]) == (0, None)
    newest = first.json["after"]
    assert segue("db", "upgrade", "--database", sqlite_url).out == f"up to date: {newest}\n"
    assert segue("db", "current", "--database", sqlite_url).out == f"{newest}\n"
    assert segue("db", "check", "--database", sqlite_url).out == "the schema is what this version needs\n"
    assert segue("saga", "ls", "--database", sqlite_url, "--json").json == {"sagas": [], "next": None}
    assert "CREATE TABLE saga_event" in segue("db", "sql", "--database", sqlite_url).out
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE audit"))
    engine.dispose()
    ran = segue("db", "check", "--database", sqlite_url, "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert "Table audit is missing." in ran.json["differences"]


def test_the_default_database_is_made_with_its_folder(tmp_path: Path) -> None:
    assert segue("db", "upgrade").code == 0
    assert (tmp_path / ".segue/segue.db").exists()


def test_a_kafka_that_does_not_answer_is_unavailable(closed_port: int) -> None:
    ran = segue("topics", "verify", "--bootstrap", f"127.0.0.1:{closed_port}")
    assert ran.code == 3
    assert f"127.0.0.1:{closed_port}" in ran.err


def test_without_segue_dev_the_embedded_broker_is_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "segue.toml").touch()
    sentence = (
        f"error: kafka.bootstrap is 'embedded', but no `segue dev` is running in {tmp_path}: "
        "start it here, or set kafka.bootstrap to your Kafka's address\n"
    )
    assert (segue("topics", "verify").code, segue("topics", "verify").err) == (2, sentence)
    # What a `segue dev` left behind that was killed.
    write_broker_file("127.0.0.1:1", "x")
    file = tmp_path / ".segue/broker.json"
    file.write_text(file.read_text().replace(str(json.loads(file.read_text())["pid"]), "999999999"))
    assert segue("topics", "verify").err == sentence


def test_the_plan_of_topics_knows_the_services_that_the_sagas_call(modules: Path) -> None:
    ran = segue("topics", "plan", "--json", "--service", "mail", "--set", "topics.partitions=3")
    assert [topic["name"] for topic in ran.json["topics"]] == [
        "mail.commands",
        "payments.commands",
        "shop.replies",
        "shop.requests",
        "mail.dlq",
        "payments.dlq",
        "shop.dlq",
    ]
    assert {topic["partitions"] for topic in ran.json["topics"]} == {3}
    assert "kafka-topics --bootstrap-server" in segue("topics", "plan", "--as", "shell").out


def test_creating_topics_in_the_embedded_broker_is_refused() -> None:
    assert "the embedded broker makes its topics itself" in segue("topics", "create").err


def test_a_new_project_overwrites_nothing_and_its_tests_pass(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    assert segue("init", str(project), "--json").json == {"directory": str(project), "files": list(FILES)}
    again = segue("init", str(project))
    assert (again.code, again.err.startswith(f"error: {project} has segue.toml")) == (5, True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=project, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize(
    ("source", "spec", "sentence"),
    [
        ("", "nowhere", "there is no module nowhere (seen from "),
        ("import surely_not_installed", "needy", "the module needy needs surely_not_installed, which is not installed"),
        ("x = 1", "empty", "the module empty has no sagas (an `async def` under `@saga`)"),
        ("1 / 0", "broken", "the module broken raises ZeroDivisionError when imported: division by zero"),
        ("x = 1", "wrong:x", "wrong:x is a int, not a saga"),
        ("x = 1", "sagas:order_sga", "the module sagas has no order_sga; did you mean order_saga?"),
        (
            "from segue.contract import Activity\nActivity('nodot', int)",
            "broken",
            "the module broken can't be used: activity 'nodot' names no service",
        ),
    ],
)
def test_modules_that_cannot_be_used_are_told_apart(modules: Path, source: str, spec: str, sentence: str) -> None:
    name = spec.partition(":")[0]
    if source and name != "sagas":
        (modules / f"{name}.py").write_text(source, "utf-8")
    ran = segue("coordinator", "run", spec)
    assert ran.code == 2
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("worker", "run", "payments"), 2, "'payments' does not name a worker; write it as module:attribute"),
        (("worker", "run", "payments:engine"), 2, "payments:engine is a Engine, not a Worker of segue.activities"),
        (("dev", "sagas"), 2, "name a worker, too: segue dev sagas payments:worker"),
        (("dev", "payments:worker"), 2, "name a module with sagas, too: segue dev sagas payments:worker"),
        (
            ("dev", "sagas", "payments:worker", "--bootstrap", "kafka:9092"),
            2,
            "kafka.bootstrap (--bootstrap) names a Kafka; `segue dev` runs its own",
        ),
    ],
)
def test_processes_that_cannot_run_say_why(modules: Path, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    ran = segue(*arguments)
    assert (ran.code, sentence in ran.err) == (code, True), ran.err


def test_a_second_segue_dev_in_one_directory_is_refused(modules: Path) -> None:
    write_broker_file("127.0.0.1:1", "x")
    ran = segue("dev", "sagas", "payments:worker")
    assert (ran.code, "a `segue dev` runs in this directory already" in ran.err) == (1, True)


def test_the_traceback_is_shown_only_when_asked_for() -> None:
    with pytest.raises(Exception, match=r"there is no segue\.toml"):
        segue("saga", "ls", "--debug")
    assert "Traceback" not in segue("saga", "ls").err


def test_every_command_explains_itself() -> None:
    for command in (
        "",
        "init",
        "dev",
        "coordinator run",
        "worker run",
        "relay run",
        "saga retry",
        "dlq replay",
        "verify",
    ):
        ran = segue(*command.split(), "--help")
        assert (ran.code, "Usage: segue" in ran.out) == (0, True), command
