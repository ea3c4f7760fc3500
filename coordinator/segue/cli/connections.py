"""What a command talks to, made from its settings: the database, Kafka, the topics' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segue.cli.invocation import Invocation
from segue.errors import ConfigError
from segue.settings import EMBEDDED
from segue.settings.deployment import database_of, kafka_of
from segue.settings.embedded import broker, running_broker
from segue.topics.settings import KafkaSettings

if TYPE_CHECKING:
    from sqlalchemy import URL

    from segue.coordinator.reads import Reads
    from segue.coordinator.store import Store


def database_url(run: Invocation) -> str:
    """The coordinator's database. Raises ConfigError for a URL that can't be one."""
    from segue.coordinator.reads import parse_url

    return parse_url(database_of(run.loaded.settings)).render_as_string(hide_password=False)


def service_url(text: str) -> URL:
    """The URL of a service's database for a relay, which is not async. Raises ConfigError."""
    from sqlalchemy import exc, make_url

    try:
        url = make_url(text)
    except exc.ArgumentError:
        raise ConfigError(
            "relay.database is not the URL of a database, like postgresql+psycopg://user@host/db"
        ) from None
    plain = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
    if url.drivername in plain or url.drivername.endswith(("+asyncpg", "+aiosqlite", "+aiomysql", "+asyncmy")):
        # What an async application uses is of no use here, and the database is the same.
        backend = url.get_backend_name()
        url = url.set(drivername=plain.get(backend, backend))
    try:
        url.get_dialect().import_dbapi()
    except (ModuleNotFoundError, exc.NoSuchModuleError) as error:
        raise ConfigError(f"relay.database is {url.render_as_string()}, which needs a driver: {error}") from None
    return url


def no_project(run: Invocation) -> str:
    """A hint for who is in the wrong directory; empty where settings were found."""
    if run.loaded.path is not None or run.loaded.origins["coordinator.database"].kind != "default":
        return ""
    return (
        f"there is no segue.toml in {Path.cwd()}: go to your project's directory, name the file with --config, "
        "or make a project with `segue init DIR`"
    )


def saga_specs(run: Invocation, given: Sequence[str] | None) -> Sequence[str]:
    """Where the sagas are. Raises ConfigError for who names none in the wrong directory."""
    specs = given or run.loaded.settings.coordinator.sagas
    if not specs and (hint := no_project(run)):
        raise ConfigError(f"coordinator.sagas is empty, and {hint}")
    return specs


def check_project(run: Invocation) -> None:
    """Raise ConfigError for who is in the wrong directory, where there is no database either."""
    hint = no_project(run)
    database = run.loaded.settings.coordinator.database.removeprefix("sqlite:///")
    if hint and not Path(database).exists():
        raise ConfigError(hint)


def reads(run: Invocation) -> Reads:
    """Read access, closed with the command."""
    from segue.coordinator.reads import Reads

    check_project(run)
    found = Reads(database_url(run))
    run.closing.callback(found.close)
    return found


def store(run: Invocation) -> Store:
    """The store, closed with the command."""
    from segue.coordinator.sql import SqlStore

    check_project(run)
    found = SqlStore(database_url(run), audit_key=audit_key(run))
    run.closing.callback(found.close)
    return found


def audit_key(run: Invocation) -> bytes:
    """What the end of the audit is sealed with; empty: nothing."""
    return run.loaded.settings.coordinator.audit_key.encode()


def kafka(run: Invocation) -> KafkaSettings:
    """How to reach Kafka; `embedded` is found through the file that `segue dev` keeps."""
    if is_embedded(run) and running_broker() is None and (hint := no_project(run)):
        raise ConfigError(f"no `segue dev` is running in {Path.cwd()}, and {hint}")
    return kafka_of(run.loaded.settings)


def is_embedded(run: Invocation) -> bool:
    """Whether the broker is that of `segue dev`."""
    return run.loaded.settings.kafka.bootstrap == EMBEDDED


def broker_id(run: Invocation) -> str:
    """What tells one embedded broker from the next: it gives its topics no ids of their own. "" for a real Kafka."""
    found = broker() if is_embedded(run) else None
    return "" if found is None else str(found["id"])
