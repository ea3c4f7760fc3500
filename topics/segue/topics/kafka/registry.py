"""A Schema Registry, asked through Confluent's own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.errors import BrokerUnavailable, ConfigError
from segue.topics.schemas import Registered
from segue.topics.settings import Property

#: Seconds that the registry may take to answer.
REGISTRY_TIMEOUT = 5.0
#: Seconds after which the client asks for the latest schema of a subject again. A schema of an id never changes.
LATEST_TTL = 300


class ConfluentRegistry:
    """Reads schemas by id and by subject; writes nothing.

    `properties` are those of Confluent's client (`basic.auth.user.info`, `ssl.ca.location`, …). Raises ConfigError for
    an address or properties that can't be, and where the client is not installed.
    """

    def __init__(self, url: str, properties: Mapping[str, Property] | None = None) -> None:
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
            from confluent_kafka.schema_registry.error import SchemaRegistryError
        except ImportError as error:
            raise ConfigError(f"avro.registry needs {error.name}: pip install 'segue[registry]'") from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"avro.registry is {url!r:.80}; give an address that begins with http:// or https://")
        # Not tried again inside the client: it would hold its caller meanwhile, who tries again himself.
        asked: dict[str, Any] = {"timeout": REGISTRY_TIMEOUT, "max.retries": 0, "cache.latest.ttl.sec": LATEST_TTL}
        try:
            self._client = SchemaRegistryClient({**asked, **(properties or {}), "url": url})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"avro.registry or avro.properties can't be used: {error}") from None
        self._refusal = SchemaRegistryError
        self.address = url.rpartition("@")[2]

    def by_id(self, id: int) -> Registered | None:
        found = self._asked(lambda: self._client.get_schema(id))
        return None if found is None else _registered(id, found)

    def latest(self, subject: str) -> Registered | None:
        found = self._asked(lambda: self._client.get_latest_version(subject))
        return None if found is None else _registered(found.schema_id, found.schema)

    def close(self) -> None:
        """Disconnect."""
        self._client.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _asked(self, question: Any) -> Any:
        """The answer, None for 404. Raises ConfigError for refused credentials, else BrokerUnavailable."""
        try:
            return question()
        except self._refusal as error:
            if error.http_status_code == 404:
                return None
            if error.http_status_code in (401, 403):
                raise ConfigError(
                    f"the schema registry at {self.address} refuses the credentials (HTTP {error.http_status_code})"
                ) from None
            raise BrokerUnavailable(
                f"the schema registry at {self.address} answered HTTP {error.http_status_code}: {error!s:.200}"
            ) from None
        except Exception as error:  # noqa: BLE001 - the client's HTTP library and what it raises are its own affair
            raise BrokerUnavailable(f"the schema registry at {self.address} does not answer: {error!s:.200}") from None


def _registered(id: int, schema: Any) -> Registered:
    return Registered(
        id=id,
        kind=schema.schema_type or "AVRO",
        text=schema.schema_str,
        refers=bool(schema.references),
    )
