"""Secrets and payloads stay where they belong: not on a screen, in a log, on a command line or in others' reach."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine, exc, text

from segue.cli import dev
from segue.cli.invocation import Invocation
from segue.cli.out import Out
from segue.errors import DecodeError, EnvelopeError, InvalidPayload, RejectedWrite, for_log
from segue.observe import Logging
from segue.settings.embedded import write_broker_file
from segue.settings.load import environment_with, load
from segue.topics.codec import JsonCodec
from segue.topics.converter import Converter
from tests.unit.cli.kit import Database, segue

SECRETS = (
    "sasl.password", "ssl.key.password", "ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config", "sasl.jaas.config", "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem", "basic.auth.user.info", "schema.registry.basic.auth.user.info",
    "bearer.auth.token", "bearer.auth.client.secret", "sasl.kerberos.kinit.cmd",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_of_kafka_or_of_a_registry_is_printed_by_config(name: str) -> None:
    ran = segue("config", "--set", f"kafka.properties.{name}=hunter2")
    assert f"kafka.properties.{name}" in ran.out
    assert "hunter2" not in ran.out


def test_the_password_in_the_url_of_a_property_is_not_printed_either() -> None:
    ran = segue("config", "--json", "--set", "kafka.properties.schema.registry.url=https://ann:hunter2@registry:8081")
    assert "https://ann:***@registry:8081" in ran.out
    assert "hunter2" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (("--database", "postgresql://ann:hunter2@nowhere/db"), "SEGUE_COORDINATOR_DATABASE_FILE"),
        (("--set", "kafka.properties.sasl.password=hunter2"), "SEGUE_KAFKA_PROPERTIES_SASL_PASSWORD_FILE"),
        (("--set", 'kafka.properties={"sasl.password": "hunter2"}'), "SEGUE_KAFKA_PROPERTIES_FILE"),
        (("--set", 'avro.properties={"basic.auth.user.info": "u:hunter2"}'), "SEGUE_AVRO_PROPERTIES_FILE"),
    ],
)
def test_a_password_on_the_command_line_is_warned_of(arguments: tuple[str, str], variable: str) -> None:
    ran = segue("config", *arguments)
    assert "puts a secret on the command line" in ran.err
    assert variable in ran.err
    assert "hunter2" not in ran.err


def test_what_is_no_secret_on_the_command_line_is_not_warned_of() -> None:
    ran = segue("config", "--database", "postgresql://ann@host/db", "--set", "kafka.properties.client.id=x")
    assert ran.err == ""


def test_processes_that_dev_starts_get_flags_through_their_environment_and_read_the_same_from_it() -> None:
    flags: dict[str, tuple[str, object]] = {
        "coordinator.database": ("--database", "postgresql://ann:hunter2@host/db"),
        "kafka.properties.sasl.password": ("--set", "hunter2"),
        "coordinator.batch_size": ("--set", "7"),
    }
    run = Invocation(out=Out(), file=None, flags=flags)
    assert "hunter2" not in " ".join(dev._segue(run, "coordinator", "run"))
    twin = {"SEGUE_COORDINATOR_DATABASE_FILE": "/nowhere"}
    environment = environment_with(flags, twin)
    loaded = load(environment=environment)
    same = load(environment={}, flags=flags)
    assert loaded.settings == same.settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_state_of_segue_is_for_its_owner_alone() -> None:
    Path(".segue").mkdir(mode=0o755)
    assert segue("db", "upgrade").code == 0
    write_broker_file("127.0.0.1:1", "x")
    assert {path.name: oct(mode(path)) for path in Path(".segue").iterdir()} == {
        "segue.db": "0o600",
        "broker.json": "0o600",
    }
    assert mode(Path(".segue")) == 0o700


def test_another_directory_keeps_its_rights_and_the_database_in_it_is_private() -> None:
    Path("data").mkdir()
    Path("data").chmod(0o755)
    assert segue("db", "upgrade", "--database", "sqlite:///data/x.db").code == 0
    assert (mode(Path("data")), mode(Path("data/x.db"))) == (0o755, 0o600)


# --- payloads in logs


class Card(BaseModel):
    number: int


def refused(kind: Any, data: bytes) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        Converter().from_bytes(data, kind)
    return caught.value


def undecodable(data: bytes) -> BaseException:
    with pytest.raises(DecodeError) as caught:
        JsonCodec().decode(data)
    return caught.value


@pytest.fixture
def errors() -> list[BaseException]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(exc.OperationalError) as statement:
        connection.execute(text("INSERT INTO nothing VALUES (:card)"), {"card": "4111-1111"})
    engine.dispose()
    return [
        refused(int, b'"4111-1111"'),
        refused(Card, b'{"number": "4111-1111"}'),
        refused(Literal["visa", "amex"], b'"4111-1111"'),
        *(
            undecodable(data)
            for data in (b'{"n": 41111111111111111111111}', b'{"4111-1": 1, "4111-1": 2}', b"4111e999")
        ),
        InvalidPayload("expected int, found str '4111-1111'"),
        RejectedWrite("saga.id can't hold '4111-1111'"),
        statement.value,
        ValueError("1 validation error for Card\nnumber\n  [input_value='4111-1111']"),
    ]


def test_no_value_of_a_payload_is_logged(errors: list[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for error in errors:
        Logging().event("record.failed", error=error)
    assert len(caplog.records) == len(errors)
    assert "4111" not in caplog.text


def test_what_is_logged_still_says_what_is_wrong() -> None:
    assert for_log(refused(int, b'"x"')) == "not a int: $: Expected int, got str … (see the dead letter)"
    assert for_log(EnvelopeError("header ce_id is missing")) == "header ce_id is missing"
    assert for_log(KeyError("x")) == "KeyError: 'x'"
    assert for_log(ValueError()) == "ValueError"


def test_an_engine_of_ours_does_not_put_parameters_into_its_errors(database: Database) -> None:
    with (
        pytest.raises(Exception) as caught,  # noqa: PT011 - whatever it is, it must not show the value
        database.store._engine.connect() as connection,
    ):
        connection.execute(text("INSERT INTO nothing VALUES (:card)"), {"card": "4111-1111"})
    assert "4111" not in str(caught.value)
