"""What a run stands on: a Kafka and a PostgreSQL of its own, proxies before them, five databases, a small disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import create_engine, make_url

from examples.transfer.contracts import BANKS
from segue import outbox
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings
from tests.chaos.disk import SmallDisk
from tests.chaos.jumping_clock import JumpingClock
from tests.real.kafka import Kafka
from tests.real.postgres import Postgres
from tests.real.process import free_port, real_directory
from tests.real.proxy import Proxy

NAMES = TopicNames(coordinator="chaos")
PARTITIONS = 6
#: Milliseconds: the least that a broker allows, so that a frozen member is missed soon.
SESSION_TIMEOUT = 6000
#: How the coordinators share out their partitions, each as the deployment guide has it.
PROTOCOLS = ("classic", "consumer")
#: The same for the protocol in which the broker decides.
_BROKERS_TIMEOUTS = [
    f"group.consumer.{least}{setting}={value}"
    for setting, value in (("session.timeout.ms", SESSION_TIMEOUT), ("heartbeat.interval.ms", 1000))
    for least in ("min.", "")
]
#: Name of a database → what is kept there. The driver's holds nothing but the outbox that its starts go through.
DATABASES = ("coordinator", *BANKS, "driver")
#: The bank whose database is on the small disk.
CRAMPED = "bank_c"
#: Processes whose clocks jump.
JUMPING = ("coordinator-2", "bank_a-1")
TOPICS = (NAMES.requests, NAMES.replies, *(NAMES.commands_of(bank) for bank in BANKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """Where everything is. `proxies`: kafka, and PostgreSQL for coordinator and bank_b; `clocks`: by process."""

    directory: Path
    #: One of PROTOCOLS.
    protocol: str
    kafka: Kafka
    postgres: Postgres
    bootstrap: str
    far_bootstrap: str
    #: URLs that go through no proxy; they are valid while the server is down, too.
    databases: Mapping[str, str]
    proxies: Mapping[str, Proxy]
    disk: SmallDisk
    clocks: Mapping[str, JumpingClock]

    @property
    def history(self) -> Path:
        return self.directory / "history.jsonl"

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap=self.bootstrap)

    def environment(self, member: str, part: str, *, far: bool = False, static: bool = False) -> dict[str, str]:
        """Settings of one process. `far`: through the proxies. `static`: keeps its partitions when it is restarted."""
        database = self._url(part, far=far)
        properties: dict[str, object] = {"session.timeout.ms": SESSION_TIMEOUT, "heartbeat.interval.ms": 1000}
        if part == "coordinator" and self.protocol == "consumer":
            properties = {"group.protocol": "consumer", "group.remote.assignor": "range"}
        if static:
            properties["group.instance.id"] = member
        return {
            "BANK": part,
            "DATABASE_URL": database,
            "SEGUE_COORDINATOR_NAME": NAMES.coordinator,
            # A relay asks whether its database is this one: only there it looks for batches.
            "SEGUE_COORDINATOR_DATABASE": self._url("coordinator", far=far and part == "coordinator"),
            "SEGUE_RELAY_DATABASE": database,
            "SEGUE_KAFKA_BOOTSTRAP": self.far_bootstrap if far and part == "coordinator" else self.bootstrap,
            "SEGUE_KAFKA_PROPERTIES": json.dumps(properties),
            "SEGUE_TOPICS_PARTITIONS": str(PARTITIONS),
            "SEGUE_TOPICS_REPLICATION": "1",
        }

    def _url(self, database: str, *, far: bool) -> str:
        url = self.databases[database]
        if not far:
            return url
        return make_url(url).set(port=self.proxies[database].port).render_as_string(hide_password=False)


@contextmanager
def estate(directory: Path, protocol: str) -> Iterator[Estate]:
    """Started in the block, ended and removed after it."""
    name = f"run-{os.getpid()}"  # named like those of tests.real.run, which sweeps what killed runs have left
    near, far, controller = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        proxied = stack.enter_context(Proxy(("127.0.0.1", far), port=free_port()))
        kafka = Kafka(name, port=near, properties=_properties(near, far, controller, proxied.port))
        postgres = Postgres(name, port=free_port())
        stack.callback(kafka.remove)
        stack.callback(postgres.remove)
        kafka.start(fresh=True)
        postgres.start(fresh=True)
        proxies = {part: stack.enter_context(Proxy(("127.0.0.1", postgres.port))) for part in ("coordinator", "bank_b")}
        disk = SmallDisk(postgres.home / "disk")
        stack.callback(disk.close)
        place = Estate(
            directory=directory,
            protocol=protocol,
            kafka=kafka,
            postgres=postgres,
            bootstrap=f"127.0.0.1:{near}",
            far_bootstrap=f"127.0.0.1:{proxied.port}",
            databases={name: postgres.url(name) for name in DATABASES},
            proxies={"kafka": proxied, **proxies},
            disk=disk,
            clocks={name: JumpingClock(directory / f"{name}.clock") for name in JUMPING},
        )
        _create_databases(place)
        yield place


def _properties(near: int, far: int, controller: int, proxy: int) -> list[str]:
    """A second listener, which sends its clients through the proxy for everything; and who is missed soon."""
    return [
        f"listeners=PLAINTEXT://127.0.0.1:{near},FAR://127.0.0.1:{far},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{near},FAR://127.0.0.1:{proxy}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
        f"controller.quorum.voters=1@127.0.0.1:{controller}",
        *_BROKERS_TIMEOUTS,
    ]


def _create_databases(place: Estate) -> None:
    admin = place.postgres.address.replace("postgresql+psycopg://", "postgresql://")
    postgres_user = place.postgres.home.stat()
    os.chown(place.disk.place, postgres_user.st_uid, postgres_user.st_gid)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{place.disk.place}'".encode())
        for name in DATABASES:
            where = " TABLESPACE small" if name == CRAMPED else ""
            connection.execute(f"CREATE DATABASE {name}{where}".encode())
    engine = create_engine(place.databases["driver"])
    outbox.metadata.create_all(engine)
    engine.dispose()


def fresh_directory() -> Path:
    """For the logs and the history of one run."""
    place = real_directory() / "chaos" / time.strftime("%Y%m%d-%H%M%S")
    place.mkdir(parents=True)
    return place
