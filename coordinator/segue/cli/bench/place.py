"""Where `segue bench` runs: topics and tables of its own, on the parts that the settings name, gone when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL, create_engine, text
from sqlalchemy.schema import CreateSchema, DropSchema

from segue.cli.bench.sagas import SERVICE
from segue.cli.connections import database_url
from segue.cli.db import migrate
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation
from segue.clock import fresh_id
from segue.coordinator.reads import parse_url, translated
from segue.outbox.search_path import with_search_path
from segue.settings import EMBEDDED
from segue.settings.load import environment_with
from segue.topics.admin import plan
from segue.topics.embedded import EmbeddedBroker
from segue.topics.kafka import KafkaAdmin
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings

#: Seconds that the coordinator has to drain.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a measurement needs; `what` names both parts for people, without secrets."""

    names: TopicNames
    kafka: KafkaSettings
    database: str
    what: str


@contextmanager
def scratch(run: Invocation, partitions: int) -> Iterator[Place]:
    """Topics and tables for one measurement. Raises what the parts raise where they can't be reached."""
    name = f"bench-{fresh_id()[:8]}"
    names = TopicNames(coordinator=name, commands="{coordinator}.{service}.commands")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="segue-bench-")))
        kafka, broker = _broker(run, stack, names, partitions)
        url = parse_url(database_url(run))
        if url.get_backend_name() == "sqlite":
            database, kind = f"sqlite:///{folder}/bench.db", "SQLite in a temporary file"
        else:
            database = stack.enter_context(_schema(url, name.replace("-", "_")))
            kind = f"{url.get_backend_name()} at {url.host or 'localhost'}"
        migrate(database)
        yield Place(names=names, kafka=kafka, database=database, what=f"{broker}, {kind}")


def _broker(run: Invocation, stack: ExitStack, names: TopicNames, partitions: int) -> tuple[KafkaSettings, str]:
    settings = run.loaded.settings.kafka
    if settings.bootstrap == EMBEDDED:
        embedded = stack.enter_context(EmbeddedBroker())
        topics = [names.requests, names.replies, names.dlq, names.commands_of(SERVICE)]
        embedded.create_topics(topics)
        return embedded.settings(settings.properties), "the embedded broker"
    kafka = KafkaSettings(bootstrap=settings.bootstrap, properties=settings.properties)
    admin = KafkaAdmin(kafka)
    stack.callback(admin.close)
    replication = min(run.loaded.settings.topics.replication, admin.brokers())
    specs = plan(names, [SERVICE], partitions=partitions, replication=replication)
    stack.callback(admin.delete, [spec.name for spec in specs])
    admin.create(specs)
    return kafka, f"Kafka at {settings.bootstrap}"


@contextmanager
def _schema(url: URL, name: str) -> Iterator[str]:
    """A schema of its own in the database, so that nothing of a deployment is touched."""
    engine = create_engine(url)
    try:
        with translated(url), engine.begin() as connection:
            connection.execute(CreateSchema(name))
        try:
            yield with_search_path(url, name).render_as_string(hide_password=False)
        finally:
            with translated(url), engine.begin() as connection:
                # A coordinator that was killed may still hold its locks for a moment.
                connection.execute(text("SET lock_timeout = '30s'"))
                connection.execute(DropSchema(name, cascade=True))
    finally:
        engine.dispose()


@contextmanager
def coordinator(run: Invocation, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """`segue coordinator run` on this place, until the block ends. Raises Problem with its last words if it failed."""
    command = [sys.executable, "-m", "segue.cli.main", "coordinator", "run", "segue.cli.bench.sagas", "--stop-at-eof"]
    command += ["--log-level", "warning"]
    if run.loaded.path:
        command += ["--config", str(run.loaded.path.resolve())]
    command += ["--set", f"coordinator.name={place.names.coordinator}"]
    for role in ("requests", "replies", "dlq", "events"):
        command += ["--set", f"topics.{role}={getattr(place.names, role)}"]
    command += ["--set", f"topics.commands={place.names.commands}"]
    with TemporaryDirectory(prefix="segue-bench-") as folder, (Path(folder) / "log").open("w+b") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(run, place), start_new_session=True
        )
        try:
            yield process
        except Problem as problem:
            raise Problem(f"{problem}; the coordinator said: {_last_words(log.name)}") from None
        finally:
            try:
                process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _environment(run: Invocation, place: Place) -> Mapping[str, str]:
    """Secrets go through the environment: other users of this machine can read a command line."""
    own = ("SEGUE_COORDINATOR_DATABASE", "SEGUE_KAFKA_BOOTSTRAP", "SEGUE_KAFKA_PROPERTIES")
    given = environment_with(run.flags, os.environ)
    kept = {name: value for name, value in given.items() if not name.startswith(own)}
    properties = {
        f"{own[2]}_{name.upper().replace('.', '_')}": str(value) for name, value in place.kafka.properties.items()
    }
    return {**kept, **properties, own[0]: place.database, "SEGUE_COORDINATOR_SCHEMA": "", own[1]: place.kafka.bootstrap}


def _last_words(log: str) -> str:
    return "\n".join(Path(log).read_text("utf-8", "replace").splitlines()[-8:]) or "nothing"
