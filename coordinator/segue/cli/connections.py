"""What a command talks to, made from its settings: the database, Kafka, the topics' names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from segue.cli.invocation import Invocation
from segue.cli.settings import EMBEDDED
from segue.coordinator.reads import Reads, parse_url
from segue.coordinator.store import Store
from segue.errors import ConfigError
from segue.topics.embedded import EMBEDDED_PROPERTIES
from segue.topics.settings import KafkaSettings

#: Where `segue dev` says how to reach its broker, in the directory it runs in.
BROKER_FILE = Path(".segue/broker.json")


def database_url(run: Invocation) -> str:
    """The coordinator's database. Raises ConfigError for a URL that can't be one."""
    url = run.loaded.settings.coordinator.database
    parse_url(url)
    return url


def reads(run: Invocation) -> Reads:
    """Read access, closed with the command."""
    found = Reads(database_url(run))
    run.closing.callback(found.close)
    return found


def store(run: Invocation) -> Store:
    """The store, closed with the command."""
    from segue.coordinator.sql import SqlStore

    found = SqlStore(database_url(run))
    run.closing.callback(found.close)
    return found


def kafka(run: Invocation) -> KafkaSettings:
    """How to reach Kafka; `embedded` is found through the file that `segue dev` keeps."""
    settings = run.loaded.settings.kafka
    if settings.bootstrap != EMBEDDED:
        return KafkaSettings(bootstrap=settings.bootstrap, properties=settings.properties)
    address = running_broker()
    if address is None:
        raise ConfigError(
            f"kafka.bootstrap is {EMBEDDED!r}, but no `segue dev` is running in {Path.cwd()}: "
            "start it here, or set kafka.bootstrap to your Kafka's address"
        )
    return KafkaSettings(bootstrap=address, properties={**EMBEDDED_PROPERTIES, **settings.properties})


def is_embedded(run: Invocation) -> bool:
    """Whether the broker is that of `segue dev`."""
    return run.loaded.settings.kafka.bootstrap == EMBEDDED


def running_broker(file: Path = BROKER_FILE) -> str | None:
    """The address of the broker of a `segue dev` that runs in this directory, if one does."""
    try:
        content: Any = json.loads(file.read_text("utf-8"))
        os.kill(int(content["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(content["bootstrap"])
