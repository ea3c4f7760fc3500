"""What a demo runs on: Kafka, and one database for the coordinator and for each service.

The embedded pair by default (librdkafka's broker in the demo's own process, SQLite files); real Kafka and PostgreSQL
where their addresses are given. Processes are told of it by environment variables alone, as in a container.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from examples.driver.options import Options
from segue.topics.embedded import EmbeddedBroker
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings, Property

#: Partitions of each topic on a real Kafka; the embedded broker's number.
PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """Addresses of everything; `databases` has `coordinator` and each service."""

    names: TopicNames
    sagas: str
    kafka: KafkaSettings
    databases: Mapping[str, str]
    directory: Path
    embedded: bool
    #: Says the difference between this run and any other one on the same Kafka.
    run: str

    def environment(self, part: str) -> dict[str, str]:
        """The settings of one process; `part` is `coordinator` or a service."""
        # A name of its own for each member: a process that was killed and comes back gets its partitions back at once,
        # instead of when the dead one's session has timed out.
        properties = {**self.kafka.properties, "group.instance.id": f"{self.run}-{part}"}
        return {
            "DATABASE_URL": self.databases[part],
            "SEGUE_COORDINATOR_NAME": self.names.coordinator,
            "SEGUE_COORDINATOR_SAGAS": self.sagas,
            "SEGUE_COORDINATOR_DATABASE": self.databases["coordinator"],
            "SEGUE_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "SEGUE_KAFKA_PROPERTIES": json.dumps(properties),
            "SEGUE_TOPICS_COMMANDS": self.names.commands,
            "SEGUE_TOPICS_PARTITIONS": str(PARTITIONS),
            "SEGUE_TOPICS_REPLICATION": "1",
        }


@contextmanager
def estate(options: Options, *, coordinator: str, sagas: str, services: Sequence[str]) -> Iterator[Estate]:
    """Everything is there inside the block, and gone after it (but what `--keep` keeps)."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(options.keep))
        run = os.urandom(4).hex()
        # On somebody's Kafka other demos may run, or have run: topics of our own.
        names = TopicNames(coordinator=f"{coordinator}-{run}", commands="{coordinator}.{service}.commands")
        yield Estate(
            names=names,
            sagas=sagas,
            kafka=_kafka(stack, options, names, services),
            databases=stack.enter_context(_databases(options, directory, run, ("coordinator", *services))),
            directory=directory,
            embedded=options.bootstrap is None,
            run=run,
        )


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="segue-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _kafka(stack: ExitStack, options: Options, names: TopicNames, services: Sequence[str]) -> KafkaSettings:
    if options.bootstrap is not None:
        properties: dict[str, Property] = {"session.timeout.ms": 10_000}
        return KafkaSettings(bootstrap=options.bootstrap, properties=properties, client_id="segue-demo")
    broker = stack.enter_context(EmbeddedBroker())
    broker.create_topics((names.requests, names.replies, names.dlq, *map(names.commands_of, services)))
    broker.create_topics(f"{service}.dlq" for service in services)
    # With the newer group protocol the embedded broker keeps the partitions of a killed member for 30 s.
    return broker.settings({"group.protocol": "classic", "session.timeout.ms": 6000})


@contextmanager
def _databases(options: Options, directory: Path, run: str, parts: Sequence[str]) -> Iterator[dict[str, str]]:
    if options.database_server is None:
        yield {part: f"sqlite:///{directory / part}.sqlite" for part in parts}
        return
    server = make_url(options.database_server)
    names = {part: f"segue_demo_{run}_{part}" for part in parts}
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for name in names.values():
                connection.execute(text(f"CREATE DATABASE {name}"))
        yield {part: server.set(database=name).render_as_string(hide_password=False) for part, name in names.items()}
    finally:
        if options.keep is None:
            with engine.connect() as connection:
                for name in names.values():
                    connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()
