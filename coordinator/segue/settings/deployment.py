"""What a process of a deployment is made of, from its settings: names, limits, payload formats, how to reach Kafka."""

from __future__ import annotations

from pathlib import Path

import msgspec

from segue.errors import ConfigError
from segue.limits import Limits
from segue.settings.embedded import running_broker
from segue.settings.load import TOPIC_ROLES, topic_names
from segue.settings.model import EMBEDDED, AvroSettings, Settings
from segue.topics.codec import Codec, Codecs, TopicFormat
from segue.topics.names import TopicNames
from segue.topics.settings import EMBEDDED_PROPERTIES, KafkaSettings


def names_of(settings: Settings) -> TopicNames:
    """The names of this deployment's topics."""
    return topic_names(settings.coordinator.name, {role: getattr(settings.topics, role) for role in TOPIC_ROLES})


def database_of(settings: Settings) -> str:
    """The URL of the coordinator's database, with the schema that its tables lie in. Raises ConfigError."""
    database, schema = settings.coordinator.database, settings.coordinator.schema
    if not schema or not database.startswith("postgresql"):
        return database
    # Imported here, as below: commands that need no database are quicker without.
    from sqlalchemy import exc, make_url

    from segue.outbox.search_path import search_path_of, with_search_path

    try:
        url = make_url(database)
    except exc.ArgumentError:
        return database  # whoever connects says what is wrong with it
    said = search_path_of(url)
    if said and said != schema:
        raise ConfigError(
            f"coordinator.schema is {schema!r}, but coordinator.database says search_path={said}; set one of them"
        )
    return with_search_path(url, schema).render_as_string(hide_password=False)


def kafka_of(settings: Settings) -> KafkaSettings:
    """How to reach Kafka; `embedded` is found through the file that `segue dev` keeps. Raises ConfigError."""
    kafka = settings.kafka
    if kafka.bootstrap != EMBEDDED:
        return KafkaSettings(bootstrap=kafka.bootstrap, properties=kafka.properties)
    address = running_broker()
    if address is None:
        raise ConfigError(
            f"kafka.bootstrap is {EMBEDDED!r}, but no `segue dev` is running in {Path.cwd()}: "
            "start it here, or set kafka.bootstrap to your Kafka's address"
        )
    return KafkaSettings(bootstrap=address, properties={**EMBEDDED_PROPERTIES, **kafka.properties})


def limits_of(settings: Settings) -> Limits:
    """The bounds on what comes from outside."""
    return Limits(**msgspec.structs.asdict(settings.limits))


def codecs_of(settings: Settings) -> Codecs:
    """How payloads are read and written. Raises ConfigError for schemas or a registry that can't be used."""
    avro, limits = settings.avro, limits_of(settings)
    if not (avro.registry or avro.registries or avro.schemas):
        if avro.topics:
            raise ConfigError("avro.topics is set, but neither avro.registry nor avro.schemas says where schemas are")
        return Codecs(limits=limits)
    return _with_avro(avro, limits)


def _with_avro(avro: AvroSettings, limits: Limits) -> Codecs:
    # Imported here: who writes JSON alone does without the client of a registry, and without fastavro.
    from segue.topics.avro import AvroCodec, SchemaSource
    from segue.topics.kafka.registry import ConfluentRegistry
    from segue.topics.schemas import FileSchemas, RegistrySchemas

    if avro.registry and avro.schemas:
        raise ConfigError("avro.registry and avro.schemas are both set; set one of them")

    def registry(url: str) -> SchemaSource:
        return RegistrySchemas(ConfluentRegistry(url, avro.properties), limits=limits)

    own: SchemaSource | None = None
    if avro.schemas:
        own = FileSchemas(Path(avro.schemas), avro.ids, limits)
    elif avro.registry:
        own = registry(avro.registry)
    by_url = {url: AvroCodec(registry(url), limits=limits) for url in set(avro.registries.values())}
    readers = {topic: by_url[url] for topic, url in avro.registries.items()}
    everywhere = None if own is None else AvroCodec(own, limits=limits)
    formats = {}
    for topic, subject in avro.topics.items():
        writer = readers.get(topic) or everywhere
        if writer is None:
            raise ConfigError(f"avro.topics names {topic!r}, but avro.registry is empty and avro.registries lacks it")
        formats[topic] = TopicFormat(codec=writer, subject=subject)
    codecs: list[Codec] = [] if everywhere is None else [everywhere]
    return Codecs(*codecs, limits=limits, readers=readers, formats=formats)
