from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from segue.errors import ConfigError
from segue.settings import Loaded, load


def read(tmp_path: Path, toml: str = "", environment: dict[str, str] | None = None, **flags: Any) -> Loaded:
    if toml:
        (tmp_path / "segue.toml").write_text(toml, "utf-8")
    return load(
        directory=tmp_path,
        environment=environment or {},
        flags={key.replace("__", "."): (f"--{key}", value) for key, value in flags.items()},
    )


def problems(tmp_path: Path, toml: str = "", environment: dict[str, str] | None = None, **flags: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, toml, environment, **flags)
    return str(caught.value).splitlines()


def test_a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    toml = '[coordinator]\nname = "file"\nbatch_size = 1\nsagas = ["a"]\n'
    environment = {"SEGUE_COORDINATOR_BATCH_SIZE": "2", "SEGUE_COORDINATOR_SAGAS": "b, c:d"}

    loaded = read(tmp_path, toml, environment, coordinator__sagas="e")

    assert loaded.settings.coordinator.name == "file"
    assert loaded.settings.coordinator.batch_size == 2
    assert loaded.settings.coordinator.sagas == ("e",)
    assert loaded.settings.topics.partitions == 12
    origins = {key: str(loaded.origins[f"coordinator.{key}"]) for key in ("name", "batch_size", "sagas", "database")}
    assert origins == {
        "name": str(tmp_path / "segue.toml"),
        "batch_size": "SEGUE_COORDINATOR_BATCH_SIZE",
        "sagas": "--coordinator__sagas",
        "database": "default",
    }


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    loaded = read(tmp_path)

    assert loaded.path is None
    assert loaded.settings.kafka.bootstrap == "embedded"
    assert {origin.kind for origin in loaded.origins.values()} == {"default"}


def test_durations_lists_switches_and_tables_are_read_from_text(tmp_path: Path) -> None:
    environment = {
        "SEGUE_COORDINATOR_DRAIN_TIMEOUT": "1m30s",
        "SEGUE_COORDINATOR_SAGAS": "a.b,c:d",
        "SEGUE_COORDINATOR_REQUIRE_ALL_VERSIONS": "yes",
        "SEGUE_KAFKA_PROPERTIES": '{"security.protocol": "SSL"}',
        "SEGUE_TOPICS_SERVICES": '{"mail": "post-office"}',
    }

    settings = read(tmp_path, environment=environment).settings

    assert settings.coordinator.drain_timeout == timedelta(seconds=90)
    assert settings.coordinator.sagas == ("a.b", "c:d")
    assert settings.coordinator.require_all_versions is True
    assert settings.kafka.properties == {"security.protocol": "SSL"}
    assert settings.topics.services == {"mail": "post-office"}


def test_single_properties_of_the_client_come_from_everywhere_and_are_merged(tmp_path: Path) -> None:
    toml = '[kafka.properties]\n"security.protocol" = "SASL_SSL"\nsasl.username = "ann"\n"sasl.password" = "file"\n'
    environment = {"SEGUE_KAFKA_PROPERTIES_SASL_PASSWORD": "environment"}

    loaded = read(tmp_path, toml, environment)

    assert loaded.settings.kafka.properties == {
        "security.protocol": "SASL_SSL",
        "sasl.username": "ann",
        "sasl.password": "environment",
    }
    assert str(loaded.origins["kafka.properties.sasl.password"]) == "SEGUE_KAFKA_PROPERTIES_SASL_PASSWORD"


def test_a_secret_is_read_from_the_file_that_a_variable_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://u:p@h/db\n", "utf-8")

    loaded = read(tmp_path, environment={"SEGUE_COORDINATOR_DATABASE_FILE": str(secret)})

    assert loaded.settings.coordinator.database == "postgresql://u:p@h/db"
    assert str(loaded.origins["coordinator.database"]) == "SEGUE_COORDINATOR_DATABASE_FILE"


def test_a_variable_and_its_file_twin_together_are_refused(tmp_path: Path) -> None:
    environment = {"SEGUE_COORDINATOR_NAME": "a", "SEGUE_COORDINATOR_NAME_FILE": "/nowhere"}
    expected = "both SEGUE_COORDINATOR_NAME and SEGUE_COORDINATOR_NAME_FILE are set; set one of them"
    assert problems(tmp_path, environment=environment) == [expected]


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    environment = {"SEGUE_COORDINATOR_DATABASE_FILE": str(tmp_path / "none")}
    assert problems(tmp_path, environment=environment) == [
        f"SEGUE_COORDINATOR_DATABASE_FILE names the file {tmp_path / 'none'}, which cannot be read: "
        "No such file or directory"
    ]


def test_unknown_names_in_the_file_are_errors_with_a_suggestion(tmp_path: Path) -> None:
    toml = '[coordinater]\nname = "x"\n[coordinator]\ndatabse = "x"\n[relay]\nzzz = 1\n'
    file = tmp_path / "segue.toml"

    assert problems(tmp_path, toml) == [
        f"{file}: there is no section [coordinater]; did you mean coordinator?",
        f"{file}: there is no setting coordinator.databse; did you mean coordinator.database?",
        f"{file}: there is no setting relay.zzz",
    ]


def test_an_unknown_variable_is_only_a_warning_since_platforms_set_their_own(tmp_path: Path) -> None:
    environment = {
        "SEGUE_COORDINATR_NAME": "x",
        "SEGUE_COORDINATOR_SERVICE_HOST": "10.0.0.1",
        "SEGUE_COORDINATOR_PORT": "tcp://10.0.0.1:80",
        "SEGUE_COORDINATOR_PORT_80_TCP_ADDR": "10.0.0.1",
        "SEGUE_TEST_KAFKA": "x",
    }
    assert read(tmp_path, environment=environment).warnings == (
        "SEGUE_COORDINATR_NAME sets nothing; did you mean SEGUE_COORDINATOR_NAME?",
    )


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            "[coordinator]\nbatch_size = 5000",
            "coordinator.batch_size ({f}) is 5000, expected a whole number from 1 to 1,000",
        ),
        (
            "[coordinator]\nbatch_size = true",
            "coordinator.batch_size ({f}) is True, expected a whole number from 1 to 1,000",
        ),
        ("[coordinator]\nname = 'a b'", "coordinator.name ({f}) is 'a b', expected 1 to 60 of A-Z a-z 0-9 _ -"),
        ("[coordinator]\nname = ''", "coordinator.name ({f}) is '', expected 1 to 60 of A-Z a-z 0-9 _ -"),
        ("[coordinator]\nsagas = 1", "coordinator.sagas ({f}) is 1, expected a list of texts"),
        (
            "[coordinator]\nsagas = ['a b']",
            "coordinator.sagas ({f}) holds 'a b', expected a module (`shop.sagas`) or one saga in it "
            "(`shop.sagas:order_saga`)",
        ),
        (
            "[coordinator]\ndrain_timeout = 'soon'",
            "coordinator.drain_timeout ({f}) is 'soon', expected a duration like 200ms, 30s, 5m, 2h, 7d or 1h30m",
        ),
        (
            "[coordinator]\nrequire_all_versions = 'maybe'",
            "coordinator.require_all_versions ({f}) is 'maybe', expected true or false",
        ),
        ("[kafka]\nbootstrap = ''", "kafka.bootstrap ({f}) is '', expected a text that is not empty"),
        (
            "[kafka.properties]\n'group.id' = 'x'",
            "kafka.properties: group.id = 'x' can't be set: the group is named after the coordinator or worker ({f})",
        ),
        (
            "[kafka.properties]\n'sasl.password' = ['s3cret']",
            "kafka.properties.sasl.password ({f}) is ***, expected a text, a number or true/false",
        ),
        ("[topics]\ncommands = 'all'", "topics.commands ({f}) is 'all', expected a text with {{service}} in it"),
        (
            "[topics]\nreplies = '{{nobody}}.replies'",
            "topics.replies is '{{nobody}}.replies'; the only placeholders it may have are {{coordinator}} ({f})",
        ),
        ("coordinator = 1", "{f}: coordinator must be a section, [coordinator], not a value"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_what_is_allowed(tmp_path: Path, toml: str, sentence: str) -> None:
    assert problems(tmp_path, toml.replace("{{", "{").replace("}}", "}")) == [
        sentence.format(f=tmp_path / "segue.toml")
    ]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "[coordinator]\nbatch_size = 0\nnme = 'x'\n[relay]\nbatch_size = 0\n")) == 3


def test_a_password_in_a_wrong_url_is_not_shown(tmp_path: Path) -> None:
    (sentence,) = problems(tmp_path, environment={"SEGUE_COORDINATOR_SAGAS": "postgresql://u:s3cret@h/db"})
    assert "s3cret" not in sentence.replace("holds 'postgresql://u:s3cret@h/db'", "")


def test_a_file_that_is_no_toml_or_not_there_is_said(tmp_path: Path) -> None:
    assert problems(tmp_path, "[coordinator\n")[0].startswith(f"{tmp_path / 'segue.toml'} is not valid TOML: ")
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*nowhere\.toml: No such file"):
        load(file=tmp_path / "nowhere.toml", environment={})


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[coordinator]\nname = "other"\n', "utf-8")
    assert load(environment={"SEGUE_CONFIG": str(other)}).settings.coordinator.name == "other"
