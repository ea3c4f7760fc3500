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


def broker_id(run: Invocation) -> str:
    """What tells one embedded broker from the next: it gives its topics no ids of their own. "" for a real Kafka."""
    found = _broker() if is_embedded(run) else None
    return "" if found is None else str(found["id"])


def running_broker() -> str | None:
    """The address of the broker of a `segue dev` that runs in this directory, if one does."""
    found = _broker()
    return None if found is None else str(found["bootstrap"])


def write_broker_file(bootstrap: str, identity: str) -> None:
    """Tell other commands in this directory how to reach the broker of this process."""
    make_private(BROKER_FILE.parent)
    content = json.dumps({"bootstrap": bootstrap, "id": identity, "pid": os.getpid()})
    # Renamed into place: nobody may read half of it.
    temporary = BROKER_FILE.with_suffix(f".{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=_private) as file:
        file.write(content)
    temporary.replace(BROKER_FILE)


def make_private(directory: Path) -> None:
    """Make the directory of our own state, for nobody else to read: it holds payloads. Others stay as they are."""
    if directory.name == BROKER_FILE.parent.name:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    else:
        directory.mkdir(parents=True, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Make an empty file that nobody else can read, if it is not there; SQLite gives its journals the same rights."""
    os.close(_private(path, os.O_CREAT | os.O_WRONLY))


def _private(path: str | Path, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _broker() -> dict[str, Any] | None:
    try:
        content = json.loads(BROKER_FILE.read_text("utf-8"))
        os.kill(int(content["pid"]), 0)
        return {"bootstrap": content["bootstrap"], "id": content["id"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
