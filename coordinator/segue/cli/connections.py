"""What a command talks to, made from its settings: the database, Kafka, the topics' names."""

from __future__ import annotations

from segue.cli.invocation import Invocation
from segue.coordinator.reads import Reads, parse_url
from segue.coordinator.store import Store
from segue.settings import EMBEDDED
from segue.settings.deployment import kafka_of
from segue.settings.embedded import broker
from segue.topics.settings import KafkaSettings


def database_url(run: Invocation) -> str:
    """The coordinator's database. Raises ConfigError for a URL that can't be one."""
    return parse_url(run.loaded.settings.coordinator.database).render_as_string(hide_password=False)


def reads(run: Invocation) -> Reads:
    """Read access, closed with the command."""
    found = Reads(database_url(run))
    run.closing.callback(found.close)
    return found


def store(run: Invocation) -> Store:
    """The store, closed with the command."""
    from segue.coordinator.sql import SqlStore

    found = SqlStore(database_url(run), audit_key=audit_key(run))
    run.closing.callback(found.close)
    return found


def audit_key(run: Invocation) -> bytes:
    """What the end of the audit is sealed with; empty: nothing."""
    return run.loaded.settings.coordinator.audit_key.encode()


def kafka(run: Invocation) -> KafkaSettings:
    """How to reach Kafka; `embedded` is found through the file that `segue dev` keeps."""
    return kafka_of(run.loaded.settings)


def is_embedded(run: Invocation) -> bool:
    """Whether the broker is that of `segue dev`."""
    return run.loaded.settings.kafka.bootstrap == EMBEDDED


def broker_id(run: Invocation) -> str:
    """What tells one embedded broker from the next: it gives its topics no ids of their own. "" for a real Kafka."""
    found = broker() if is_embedded(run) else None
    return "" if found is None else str(found["id"])
