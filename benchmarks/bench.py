"""What all scenarios share: their own PostgreSQL and Kafka, databases, topics, processes, windows of measuring."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from sqlalchemy import create_engine

from benchmarks.contracts import SERVICES
from benchmarks.meters import Meter, Reading, libpq
from benchmarks.peer import python
from benchmarks.place import PLACE, BenchError
from benchmarks.report import Row
from benchmarks.warming import warm_up
from segue.migrations import upgrade
from segue.outbox import metadata as service_tables
from segue.topics import TopicNames
from tests.real.kafka import Kafka
from tests.real.postgres import Postgres

#: Seconds within which a process must be ready, or answer.
PATIENCE = 60.0
#: For each topic. librdkafka sends a request for each partition, and what is sent at once spreads over all of them: no
#: more than the processes that share the work.
PARTITIONS = 2
#: Settings of the server beside `fsync=on`: what a machine of this size is given in production, and commit times to
#: read latencies from.
POSTGRES = (
    "shared_buffers=1GB",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "wal_compression=off",
    "synchronous_commit=on",
    "track_commit_timestamp=on",
)


class Child:
    """A process of a scenario: started with a JSON object, told things line by line, ended by closing its input."""

    def __init__(self, role: str, arguments: Mapping[str, Any], *, python: str = sys.executable) -> None:
        self.role = role
        self.log = PLACE / "logs" / f"{role}-{os.getpid()}-{next(_numbers)}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.roles.{role}", json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def ready(self) -> None:
        """Wait until it says so."""
        self._answer()

    def tell(self, word: str) -> Any:
        """Say a word; returns the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        return self._answer()

    def stop(self) -> None:
        """Let it end by itself; if it does not, end it."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        except (ValueError, BrokenPipeError):
            self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._gone()
        return json.loads(line)

    def _gone(self) -> BenchError:
        code = self._process.wait()
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        return BenchError(f"{self.role} ended with code {code}: {last}")


_numbers = itertools.count(1)


class Bench:
    """A run. A context manager: the servers are started fresh and removed at the end, whatever happens."""

    def __init__(self, *, quick: bool, say: Callable[[str], None]) -> None:
        self.quick = quick
        self.say = say
        self.rows: list[Row] = []
        #: Where profiles go; None: nothing is profiled.
        self.profiles: Path | None = None
        self.postgres = Postgres(f"bench-{os.getpid()}", settings=POSTGRES)
        self.kafka = Kafka(f"bench-{os.getpid()}", properties=["log.retention.hours=1"])
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for server in (self.postgres, self.kafka):
                self._stack.callback(server.remove)
                server.start(fresh=True)
            self._warm_kafka()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pick(self, full: float, quick: float) -> float:
        """One of two lengths, by the kind of run."""
        return quick if self.quick else full

    def value(self, key: str) -> float | None:
        """A figure measured earlier in this run."""
        return next((row.value for row in self.rows if row.key == key), None)

    def _warm_kafka(self) -> None:
        """A fresh broker needs seconds before it gives idempotent producers their ids, or has compiled its code."""
        self.create_topics(["warm-up"])
        producer = Producer({"bootstrap.servers": self.kafka.address, "enable.idempotence": True})
        producer.produce("warm-up", b"")
        if producer.flush(PATIENCE):
            raise BenchError("Kafka takes no record of an idempotent producer")
        warm_up(self.kafka.address, "warm-up")

    def create_topics(self, topics: Sequence[str], partitions: int = PARTITIONS) -> None:
        """Create topics of so many partitions; those that are there stay as they are."""
        admin = AdminClient({"bootstrap.servers": self.kafka.address})
        known = admin.list_topics(timeout=PATIENCE).topics
        missing = [topic for topic in topics if topic not in known]
        made = admin.create_topics([NewTopic(topic, partitions, 1) for topic in missing]) if missing else {}
        for future in made.values():
            future.result(PATIENCE)

    @contextmanager
    def estate(self, services: Sequence[str] = SERVICES) -> Iterator[Estate]:
        """A fresh coordinator database and topics of its own; its processes end with the block."""
        estate = Estate(self, f"b{next(_numbers)}", services)
        try:
            yield estate
        finally:
            estate.close()


class Estate:
    """One scenario's database, topics and processes."""

    def __init__(self, bench: Bench, tag: str, services: Sequence[str]) -> None:
        self.bench = bench
        self.tag = tag
        self.names = TopicNames(coordinator=f"coordinator-{tag}", commands="{service}.commands-" + tag)
        self.bootstrap = bench.kafka.address
        self._databases: list[str] = []
        self._spies: list[subprocess.Popen[bytes]] = []
        self.database = self.side_database("coordinator")
        upgrade(self.database)
        self.commands = {service: self.names.commands_of(service) for service in services}
        self.children: dict[str, Child] = {}
        topics = [self.names.replies, self.names.requests, self.names.dlq, *self.commands.values()]
        bench.create_topics([*topics, *(f"{service}.dlq" for service in services)])

    # --- processes

    def start(self, name: str, role: str, **arguments: Any) -> Child:
        """Start a process; it may not be ready yet."""
        where = {"bootstrap": self.bootstrap, "tag": self.tag}
        child = self.children[name] = Child(role, where | arguments)
        return child

    def coordinator(self, name: str = "coordinator", **arguments: Any) -> Child:
        """A coordinator process on this estate's database, ready."""
        child = self.start(name, "coordinator", database=self.database, **arguments)
        child.ready()
        self._spy_on(name)
        return child

    def driver(self, **arguments: Any) -> Child:
        """A process that starts sagas (and answers commands, with `answer=True`), ready but not yet told to go."""
        topics = sorted(self.commands.values())
        child = self.start("driver", "driver", **({"topics": topics} | arguments))
        child.ready()
        return child

    def services(self, **arguments: Any) -> None:
        """The real services, one process and one database each, ready."""
        for service in self.commands:
            url = self.side_database(service)
            engine = create_engine(url)
            service_tables.create_all(engine)
            engine.dispose()
            self.start(service, "service", service=service, database=url, **arguments)
        for service in self.commands:
            self.children[service].ready()
        # One of them: sampling costs, and they all do the same.
        self._spy_on(next(iter(self.commands)))

    def _spy_on(self, name: str) -> None:
        """Sample who holds the interpreter of a process, until that ends; read with `python -m benchmarks.budget`."""
        if self.bench.profiles is None:
            return
        output = self.bench.profiles / f"{name}-{self.tag}.txt"
        record = [str(python().with_name("py-spy")), "record", "--gil", "--nonblocking", "--rate", "200"]
        where = ["--format", "raw", "--output", str(output), "--pid", str(self.children[name].pid)]
        spy = subprocess.Popen(
            [*record, *where], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._spies.append(spy)
        self.bench.say(f"  profile: {output}")

    def side_database(self, name: str) -> str:
        """A further, empty database that goes with the estate; returns its URL."""
        self._databases.append(f"{name}_{self.tag}")
        return self.bench.postgres.create_database(self._databases[-1])

    def close(self) -> None:
        """Stop all processes, in the reverse order of their start; drop the databases."""
        for child in reversed(self.children.values()):
            child.stop()
        self.children.clear()
        for spy in self._spies:
            spy.wait(PATIENCE)
        for database in self._databases:
            self.bench.postgres.drop_database(database)
        self._databases.clear()

    # --- measuring

    def meter(self) -> Meter:
        """A meter of this estate's database and processes, and of both servers."""
        pids = {name: child.pid for name, child in self.children.items()}
        servers = {"postgres": self.bench.postgres.pid, "kafka": self.bench.kafka.pid}
        return Meter(self.database, pids | servers, families=frozenset(("postgres",)))

    def once_round(self, driver: Child, in_flight: int) -> None:
        """Wait until as many sagas have ended as are under way: they began at once, which is no steady load."""
        self.wait(lambda: driver.tell("counts")["ended"] >= in_flight, 120, "the end of the sagas that came first")

    def windows(self, warm_up: float, seconds: float, count: int) -> list[Reading]:
        """Let it run, and read all counters at the `count + 1` edges of `count` windows."""
        time.sleep(warm_up)
        with self.meter() as meter:
            readings = [meter.read()]
            for _ in range(count):
                time.sleep(max(0.0, readings[-1].at + seconds - time.time()))
                readings.append(meter.read())
        return readings

    def ask(self, query: str, *parameters: Any) -> Any:
        """The only value that a query on the coordinator's database returns."""
        with psycopg.connect(libpq(self.database), autocommit=True) as connection:
            row = connection.execute(query, parameters or None).fetchone()
        return None if row is None else row[0]

    def ended(self, first: Reading, last: Reading) -> int:
        """Sagas that ended between two readings, by the database's own clock."""
        query = "SELECT count(*) FROM saga WHERE ended_at >= to_timestamp(%s) AND ended_at < to_timestamp(%s)"
        return int(self.ask(query, first.at, last.at))

    def transitions(self, first: Reading, last: Reading) -> int:
        """Transitions that were written between two readings."""
        query = 'SELECT count(*) FROM saga_event WHERE "at" >= to_timestamp(%s) AND "at" < to_timestamp(%s)'
        return int(self.ask(query, first.at, last.at))

    def length(self) -> float:
        """Transitions of a saga that has ended, on average; 0 if none has."""
        return float(self.ask("SELECT avg(revision) FROM saga WHERE ended_at IS NOT NULL") or 0)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Look every 50 ms until it holds. Raises BenchError after `seconds`."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise BenchError(f"after {seconds:g} s there still was no sign of: {what}")
            time.sleep(0.05)
