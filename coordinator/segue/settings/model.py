"""What can be set: one frozen struct per section of `segue.toml`.

The annotations are the documentation: `docs/reference/settings.md` is generated from them, so every description is a
sentence for the person who sets the value.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from segue.limits import DEFAULT_LIMITS

#: Value of `kafka.bootstrap` that means: the broker that `segue dev` runs in this directory.
EMBEDDED = "embedded"


def text(description: str, **limits: Any) -> Any:
    """A sentence about a setting, and its limits."""
    return Meta(description=description, **limits)


class CoordinatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator: drives sagas, one database for as many processes as you like."""

    name: Annotated[
        str,
        text(
            "Name of this coordinator: part of its topics, its consumer group and every command's id. Never change it.",
            pattern=r"^[A-Za-z0-9_-]{1,60}$",
        ),
    ] = "segue"
    sagas: Annotated[
        tuple[str, ...], text("Where the sagas are: modules (`shop.sagas`) or single ones (`shop.sagas:order_saga`).")
    ] = ()
    database: Annotated[
        str,
        text(
            "SQLAlchemy URL of the coordinator's database: `postgresql+psycopg://…` or `sqlite:///…`.",
            min_length=1,
            extra_json_schema={"secret": "url"},
        ),
    ] = "sqlite:///.segue/segue.db"
    schema: Annotated[
        str,
        text(
            "Schema of PostgreSQL that the tables lie in, made by `segue db upgrade`; empty: where the connection is, "
            "`public` mostly. SQLite has none.",
            pattern=r"^([a-z_][a-z0-9_]{0,62})?$",
        ),
    ] = ""
    batch_size: Annotated[int, text("Records that one transaction applies at most, under load.", ge=1, le=1000)] = 500
    cache_size: Annotated[int, text("Live sagas that one process keeps in memory.", ge=1, le=10_000_000)] = 10_000
    parked_for: Annotated[timedelta, text("How long a signal or cancel that came before its saga is kept for it.")] = (
        timedelta(days=1)
    )
    undos_per_minute: Annotated[
        int,
        text("Undos per minute and saga type that may begin by themselves, more are held for a person; 0: any.", ge=0),
    ] = 0
    require_all_versions: Annotated[
        bool, text("Refuse to start while a live saga has a type or version that this process lacks.")
    ] = False
    drain_timeout: Annotated[
        timedelta, text("How long a stopping coordinator waits for Kafka's last acknowledgements.")
    ] = timedelta(seconds=20)
    audit_key: Annotated[
        str,
        text(
            "Secret that seals the end of the audit, the same for all coordinators and for `segue verify`: who writes "
            "to the database without it can't cut lines off unseen. Empty: no seal.",
            extra_json_schema={"secret": "all"},
        ),
    ] = ""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach Kafka."""

    bootstrap: Annotated[
        str,
        text(
            "Kafka's addresses, `host:port,host:port`; `embedded`: the broker that `segue dev` runs in this directory.",
            min_length=1,
        ),
    ] = EMBEDDED
    properties: Annotated[
        dict[str, Any],
        text("Any property of librdkafka (`security.protocol`, `sasl.password`, …), for every client."),
    ] = {}


class TopicsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of topics; `{service}` and `{coordinator}` are replaced."""

    commands: Annotated[str, text("Topic of the commands to one service.", pattern=r"\{service\}")] = (
        "{service}.commands"
    )
    requests: Annotated[str, text("Topic of starts, signals and cancels.", min_length=1)] = "{coordinator}.requests"
    replies: Annotated[str, text("Topic of the services' replies.", min_length=1)] = "{coordinator}.replies"
    dlq: Annotated[str, text("Topic of the records that nobody can use.", min_length=1)] = "{coordinator}.dlq"
    events: Annotated[str, text("Topic of lifecycle events.", min_length=1)] = "{coordinator}.events"
    services: Annotated[
        dict[str, str], text("Command topics of single services that do not follow the template: service → topic.")
    ] = {}
    partitions: Annotated[int, text("Partitions of a topic that `segue topics create` makes.", ge=1, le=10_000)] = 12
    replication: Annotated[int, text("Replicas of a topic that `segue topics create` makes.", ge=1, le=32)] = 3


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workers started by `segue worker run` and `segue dev`; their own code says what is not set here."""

    concurrency: Annotated[
        int, text("Commands handled at the same time; 0: what the worker's code says (16).", ge=0, le=1000)
    ] = 0
    drain_timeout: Annotated[
        timedelta, text("How long a stopping worker may finish what it has begun; 0: what its code says (20s).")
    ] = timedelta()


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The relay of a service's outbox, `segue relay run`."""

    database: Annotated[
        str,
        text(
            "SQLAlchemy URL of the service's database, where its outbox is; empty: the coordinator's.",
            extra_json_schema={"secret": "url"},
        ),
    ] = ""
    batch_size: Annotated[int, text("Rows that the relay publishes at a time.", ge=1, le=10_000)] = 500


class LimitsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on what comes from outside, the same for coordinator, workers and clients of one deployment."""

    payload_bytes: Annotated[int, text("Bytes of one payload.", ge=1024, le=100_000_000)] = DEFAULT_LIMITS.payload_bytes
    header_count: Annotated[int, text("Number of headers of one record.", ge=30, le=10_000)] = (
        DEFAULT_LIMITS.header_count
    )
    header_bytes: Annotated[
        int, text("Bytes of all headers of one record, names included.", ge=4096, le=10_000_000)
    ] = DEFAULT_LIMITS.header_bytes
    depth: Annotated[int, text("Nesting of a JSON or Avro value.", ge=4, le=500)] = DEFAULT_LIMITS.depth
    json_keys: Annotated[int, text("Keys of all objects of one JSON document.", ge=100, le=10_000_000)] = (
        DEFAULT_LIMITS.json_keys
    )
    avro_items: Annotated[int, text("Items of all arrays and maps of one Avro datum.", ge=100, le=10_000_000)] = (
        DEFAULT_LIMITS.avro_items
    )
    pending_commands: Annotated[
        int, text("Commands of one saga that are outstanding at the same time; with more it is blocked.", ge=1)
    ] = DEFAULT_LIMITS.pending_commands
    pending_signals: Annotated[
        int, text("Signals of one saga that nobody has received yet; more are dead letters.", ge=1)
    ] = DEFAULT_LIMITS.pending_signals
    history_events: Annotated[
        int, text("Transitions in the history of one run of a saga; with more it is blocked.", ge=10)
    ] = DEFAULT_LIMITS.history_events


class AvroSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Payloads in Avro: read on every topic once there are schemas, written where `topics` says."""

    registry: Annotated[
        str,
        text(
            "Address of the Schema Registry: `http://…` or `https://…`; needs `pip install 'segue[registry]'`.",
            extra_json_schema={"secret": "url"},
        ),
    ] = ""
    registries: Annotated[
        dict[str, str],
        text("Another registry for single topics: topic → address.", extra_json_schema={"secret": "url"}),
    ] = {}
    properties: Annotated[
        dict[str, str],
        text(
            "Properties of Confluent's registry client (`basic.auth.user.info`, `ssl.ca.location`, …).",
            extra_json_schema={"secret": "all"},
        ),
    ] = {}
    schemas: Annotated[str, text("Folder of `*.avsc` files, instead of a registry; a file's name is its subject.")] = ""
    ids: Annotated[
        dict[str, int], text("Ids by which others know the schemas of files: subject → id; others are made from them.")
    ] = {}
    topics: Annotated[
        dict[str, str],
        text(
            "Topics to which Segue writes Avro: topic → subject, in which `{topic}` and `{type}` (activity, "
            "`activity.reply`, saga) are replaced."
        ),
    ] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings."""

    coordinator: CoordinatorSettings = CoordinatorSettings()
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    worker: WorkerSettings = WorkerSettings()
    relay: RelaySettings = RelaySettings()
    limits: LimitsSettings = LimitsSettings()
    avro: AvroSettings = AvroSettings()
