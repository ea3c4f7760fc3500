"""Apache Kafka in KRaft mode, from Maven's jars and Java 17: `python -m tests.real.kafka start|stop|status`."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real.process import RealPartError, Server, command_line, free_port, real_directory

VERSION = "4.1.0"
#: Any 22 characters of URL-safe base64 would do; one that never changes lets logs of several runs be compared.
CLUSTER_ID = "c2VndWUtdGVzdC1icm9rZQ"
MINIMUM_JAVA = 17
_FAST_COMPILER = "-XX:TieredStopAtLevel=1"

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>segue.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable={auto_create}
num.partitions=4
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
# A killed broker may register again only after its old session is over: 9 s by default.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
{extra}
"""


class Kafka(Server):
    """One broker that is its own controller. `address` is the bootstrap address."""

    kind = "kafka"

    def __init__(
        self, name: str = "main", *, port: int | None = None, auto_create: bool = False, properties: Sequence[str] = ()
    ) -> None:
        """`properties` are lines appended to `server.properties`; the last line for a setting counts."""
        super().__init__(name, port=port)
        self._auto_create = auto_create
        self._properties = tuple(properties)

    @classmethod
    def missing(cls) -> str | None:
        java = java_version()
        if java is None or java < MINIMUM_JAVA:
            return f"no Java {MINIMUM_JAVA} on this machine"
        if not _jars_are_there() and shutil.which("mvn") is None:
            return "no Maven on this machine"
        return None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answers(self, port: int) -> bool:
        return speaks_kafka("127.0.0.1", port)

    def _prepare(self) -> None:
        fetch_jars()

    def _command(self, port: int) -> Sequence[str]:
        properties = self.home / "server.properties"
        properties.write_text(
            _PROPERTIES.format(
                port=port,
                controller_port=_another_port(port),
                data=self.home / "data",
                auto_create=str(self._auto_create).lower(),
                extra="\n".join(self._properties),
            )
        )
        if not (self.home / "data" / "meta.properties").exists():
            self._format(properties)
        # The fast compiler only: a broker lives for minutes, and the other one would take more than it ever gives back.
        return [*_java("-Xms512m", "-Xmx512m", _FAST_COMPILER), "kafka.Kafka", str(properties)]

    def _format(self, properties: Path) -> None:
        arguments = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", str(properties)]
        done = subprocess.run([*_java(_FAST_COMPILER), *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RealPartError(f"Kafka's storage can't be formatted: {done.stdout}{done.stderr}")


def java_version() -> int | None:
    """The major version of the Java that would run, or None."""
    java = _java_binary()
    if java is None:
        return None
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(found[1]) if found else None


def fetch_jars() -> Path:
    """The directory of the jars; Maven copies them there on first use."""
    libs = _libs()
    libs.parent.mkdir(parents=True, exist_ok=True)
    with (libs.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _jars_are_there():
            _copy_jars(libs)
    return libs


def speaks_kafka(host: str, port: int, *, timeout: float = 2.0) -> bool:
    """Whether an ApiVersions request is answered: the first thing that any client asks."""
    # Header v1: api key 18, version 0, correlation id 7, client id "" - then no body.
    request = struct.pack(">hhih", 18, 0, 7, 0)
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (7, 0)


def _another_port(port: int) -> int:
    other = free_port()
    return _another_port(port) if other == port else other


def _libs() -> Path:
    return real_directory() / "kafka" / "libs"


def _jars_are_there() -> bool:
    return (_libs() / f"kafka_2.13-{VERSION}.jar").exists()


def _copy_jars(libs: Path) -> None:
    pom = libs.parent / "pom.xml"
    pom.write_text(_POM)
    fresh = libs.with_name("libs.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(libs, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RealPartError(f"Maven can't fetch Kafka {VERSION}: {(done.stdout + done.stderr)[-3000:]}")
    fresh.rename(libs)


def _java(*options: str) -> list[str]:
    # One collector thread and an explicit log format: two cores are shared with everything under test.
    log = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
    return [_java_binary() or "java", "-XX:+UseSerialGC", *options, *log, "-cp", f"{_libs()}/*"]


def _java_binary() -> str | None:
    home = os.environ.get("JAVA_HOME")
    if home and (binary := Path(home) / "bin" / "java").exists():
        return str(binary)
    return shutil.which("java")


if __name__ == "__main__":
    sys.exit(command_line(Kafka, sys.argv[1:]))
