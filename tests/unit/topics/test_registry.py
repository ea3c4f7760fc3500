"""Confluent's client against a registry over HTTP: what an answer means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segue.errors import BrokerUnavailable, ConfigError
from segue.topics.avro import AvroCodec
from segue.topics.kafka.registry import ConfluentRegistry
from segue.topics.schemas import Registered, RegistrySchemas
from tests.real.registry import SchemaRegistry


@pytest.fixture
def server() -> Iterator[SchemaRegistry]:
    with SchemaRegistry("ann", "secret") as running:
        yield running


@pytest.fixture
def registry(server: SchemaRegistry) -> Iterator[ConfluentRegistry]:
    made = ConfluentRegistry(server.url, {"basic.auth.user.info": "ann:secret"})
    yield made
    made.close()


def test_schemas_are_found_by_id_and_by_subject(server: SchemaRegistry, registry: ConfluentRegistry) -> None:
    id = server.register("a/b", '"int"')
    assert registry.by_id(id) == registry.latest("a/b") == Registered(id=id, kind="AVRO", text='"int"')
    assert registry.by_id(7) is None
    assert registry.latest("other") is None


def test_both_directions_through_the_codec(server: SchemaRegistry, registry: ConfluentRegistry) -> None:
    server.register("count", '"int"')
    codec = AvroCodec(RegistrySchemas(registry), "count")
    assert codec.decode(codec.encode(b"-3")) == b"-3"


@pytest.mark.parametrize("answer", [(500, b""), (302, b""), (200, b"<html>"), (503, b'{"error_code":1}')])
def test_an_outage_is_told_from_an_unknown_schema(
    server: SchemaRegistry, registry: ConfluentRegistry, answer: tuple[int, bytes]
) -> None:
    server.answer = answer
    with pytest.raises(BrokerUnavailable, match="the schema registry at http://127"):
        registry.by_id(1)


def test_a_registry_that_is_not_there_is_an_outage() -> None:
    made = ConfluentRegistry("http://ann:secret@127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match="does not answer") as raised:
        made.latest("x")
    assert "secret" not in str(raised.value)
    made.close()


def test_refused_credentials_are_a_setting_to_change(server: SchemaRegistry) -> None:
    made = ConfluentRegistry(server.url, {"basic.auth.user.info": "ann:wrong"})
    with pytest.raises(ConfigError, match="refuses the credentials") as raised:
        made.by_id(1)
    assert "wrong" not in str(raised.value)
    made.close()


@pytest.mark.parametrize("url", ["registry:8081", "file:///etc/passwd", "ftp://x/"])
def test_only_http_addresses_are_registries(url: str) -> None:
    with pytest.raises(ConfigError, match="http:// or https://"):
        ConfluentRegistry(url)


def test_a_property_that_does_not_exist_is_said() -> None:
    with pytest.raises(ConfigError, match=r"avro.properties can't be used: .*no.such.property"):
        ConfluentRegistry("http://127.0.0.1:1", {"no.such.property": "x"})
