"""What the processes of a deployment make of their settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from segue.errors import ConfigError
from segue.limits import DEFAULT_LIMITS, Limits
from segue.settings import load
from segue.settings.deployment import codecs_of, limits_of
from segue.settings.values import declared
from tests.real.registry import SchemaRegistry

ROOT = Path(__file__).parents[3]
SECTIONS = {setting.section for setting in declared().values()}
#: A setting in a sentence: `limits.depth`; not `limits.py`, and not the name of a module.
NAMED = re.compile(rf"(?<![\w./-])({'|'.join(sorted(SECTIONS))})\.([a-z_]+)(?![\w(/-])")


def settings(**environment: str) -> Any:
    return load(environment={f"SEGUE_{name.upper()}": value for name, value in environment.items()}).settings


def test_every_limit_is_a_setting_with_its_default() -> None:
    assert limits_of(settings()) == DEFAULT_LIMITS
    assert {f"limits.{field.name}" for field in fields(Limits)} <= set(declared())
    assert limits_of(settings(limits_history_events="70", limits_depth="5")) == Limits(history_events=70, depth=5)


def sentences() -> Iterator[tuple[Path, str]]:
    for part in ("topics", "outbox", "activities", "coordinator"):
        for file in (ROOT / part / "segue").rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                # Of what is no sentence, the names of events and modules look like settings; so do failpoints.
                if (
                    file.name != "failpoints.py"
                    and isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and " " in node.value
                ):
                    yield file, node.value


def test_every_setting_that_a_sentence_names_exists() -> None:
    named = {(file.name, match[0]) for file, text in sentences() for match in NAMED.finditer(text)}
    assert {name for _, name in named} >= {"limits.history_events", "limits.pending_commands", "avro.registry"}
    assert {(file, name) for file, name in named if name not in declared()} == set()


def test_avro_is_written_and_read_where_the_settings_say_so() -> None:
    with SchemaRegistry() as registry, SchemaRegistry() as theirs:
        registry.register("ours-pay", '"int"')
        theirs.register("their-pay", '"string"')
        codecs = codecs_of(
            settings(
                avro_registry=registry.url,
                avro_registries=f'{{"theirs": "{theirs.url}"}}',
                avro_topics='{"ours": "{topic}-{type}", "theirs": "their-{type}"}',
            )
        )
        for topic, value in (("ours", b"-3"), ("theirs", b'"x"')):
            content_type, written = codecs.encode(topic, "pay", value)
            assert content_type == "application/avro"
            assert codecs.decode("application/json", written, topic) == value
        assert codecs.encode("elsewhere", "pay", b"1") == ("application/json", b"1")


def test_schemas_may_be_files_with_the_ids_of_the_estate(tmp_path: Path) -> None:
    (tmp_path / "count.avsc").write_text('"int"', "utf-8")
    codecs = codecs_of(settings(avro_schemas=str(tmp_path), avro_ids='{"count": 42}', avro_topics='{"t": "count"}'))
    assert codecs.encode("t", "pay", b"-3") == ("application/avro", b"\x00\x00\x00\x00\x2a\x05")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"avro_topics": '{"t": "s"}'}, "neither avro.registry nor avro.schemas says where schemas are"),
        ({"avro_registry": "http://127.0.0.1:1", "avro_schemas": "x"}, "are both set; set one of them"),
        ({"avro_registry": "registry:8081"}, "begins with http:// or https://"),
        ({"avro_schemas": "/no/such/folder"}, "there is no .avsc file in it"),
        (
            {"avro_registries": '{"other": "http://127.0.0.1:1"}', "avro_topics": '{"t": "s"}'},
            "avro.topics names 't', but avro.registry is empty and avro.registries lacks it",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_said(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        codecs_of(settings(**given))
