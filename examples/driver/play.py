"""Play a demo: start everything, feed the sagas, break things on the way, wait until every saga has ended."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sqlalchemy import Engine, create_engine, text

from examples.driver.duplicates import Duplicator
from examples.driver.estate import Estate
from examples.driver.options import Options
from examples.driver.processes import Processes
from examples.driver.progress import Progress
from segue.client import Client
from segue.saga import SagaDefinition

#: Sagas under way at a time: the embedded broker keeps only the last 5 MiB of a partition.
WINDOW = 200
#: Of a hundred commands and replies, and of a hundred starts, those that are delivered twice.
DUPLICATES = 10
#: Seconds that a killed process is gone.
ABSENCE = 1.0
#: Seconds without any saga ending, after which those that are left count as waiting.
PATIENCE = 75.0
#: Seconds between two looks at the coordinator's table.
LOOK_EVERY = 0.2
ENDED = ("completed", "compensated", "failed", "cancelled")
SEGUE = (sys.executable, "-m", "segue.cli.main")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service: the module that creates its tables when it is run, and its worker."""

    name: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """What is played: the saga, its inputs by saga id, and the services. `victims` are those that may be killed."""

    title: str
    #: Name of the coordinator, and the module in which it finds the saga.
    coordinator: str
    sagas: str
    definition: SagaDefinition[Any, Any]
    inputs: Mapping[str, Any]
    services: Sequence[Service]
    victims: Sequence[str]


@dataclass(slots=True, kw_only=True)
class Played:
    """What became of it."""

    statuses: dict[str, str]
    seconds: float
    duplicate_starts: int
    duplicate_deliveries: int
    killed: Sequence[str]

    def count(self, *statuses: str) -> int:
        """How many sagas have one of these statuses."""
        return sum(1 for status in self.statuses.values() if status in statuses)

    @property
    def waiting(self) -> int:
        """Sagas that have not ended."""
        return len(self.statuses) - self.count(*ENDED)


def play(cast: Cast, estate: Estate, processes: Processes, options: Options, progress: Progress) -> Played:
    """Run it to its end, or until nothing moves any more. The processes are drained and ended when it returns."""
    random = Random(options.seed)
    prepare(cast, estate, processes)
    processes.start("coordinator", (*SEGUE, "coordinator", "run"), estate.environment("coordinator"))
    for service in cast.services:
        worker = (*SEGUE, "worker", "run", f"{service.module}:worker")
        processes.start(service.name, worker, {**estate.environment(service.name), **service.environment})
    topics = [*(estate.names.commands_of(service.name) for service in cast.services), estate.names.replies]
    duplicator = Duplicator(
        estate.kafka, topics, percent=DUPLICATES if options.faults else 0, seed=random.randrange(2**32)
    )
    engine = create_engine(estate.databases["coordinator"])
    try:
        with duplicator, _client(estate) as client:
            run = _Run(cast, client, engine, processes, progress, random, faults=options.faults)
            run.until_all_ended()
        processes.stop()
        return Played(
            statuses=run.statuses(),
            seconds=run.seconds,
            duplicate_starts=run.duplicate_starts,
            duplicate_deliveries=duplicator.count,
            killed=run.killed,
        )
    finally:
        engine.dispose()


def prepare(cast: Cast, estate: Estate, processes: Processes) -> None:
    """Topics, the coordinator's schema, the services' tables."""
    commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        f"{service.name}-tables": (
            (sys.executable, "-m", service.module),
            {**estate.environment(service.name), **service.environment},
        )
        for service in cast.services
    }
    commands["schema"] = ((*SEGUE, "db", "upgrade"), estate.environment("coordinator"))
    if not estate.embedded:
        names = [argument for service in cast.services for argument in ("--service", service.name)]
        commands["topics"] = ((*SEGUE, "topics", "create", *names), estate.environment("coordinator"))
    processes.run(commands)


def _client(estate: Estate) -> Client:
    return Client.connect(
        bootstrap=estate.kafka.bootstrap,
        coordinator=estate.names.coordinator,
        properties=estate.kafka.properties,
    )


class _Run:
    """The loop of a play."""

    def __init__(
        self,
        cast: Cast,
        client: Client,
        engine: Engine,
        processes: Processes,
        progress: Progress,
        random: Random,
        *,
        faults: bool,
    ) -> None:
        self._cast = cast
        self._client = client
        self._engine = engine
        self._processes = processes
        self._progress = progress
        self._waiting = deque(cast.inputs.items())
        self._twice = {name for name in cast.inputs if faults and random.randrange(100) < DUPLICATES}
        total = len(cast.inputs)
        #: What is killed, and at how many ended sagas.
        self._plan = deque(
            [(math.ceil(total * 0.3), random.choice(cast.victims)), (math.ceil(total * 0.5), "coordinator")]
            if faults
            else []
        )
        self._absent: tuple[str, float] | None = None
        self.killed: list[str] = []
        self.duplicate_starts = 0
        self.seconds = 0.0

    def until_all_ended(self) -> None:
        """Feed, look, break; returns when all sagas have ended, or none has for a long time."""
        total = len(self._cast.inputs)
        started = moved = time.monotonic()
        ended = 0
        while ended < total and time.monotonic() - moved < PATIENCE:
            counts = self._counts()
            before, ended = ended, sum(counts[status] for status in ENDED)
            if ended > before:
                moved = time.monotonic()
            self._progress.show(counts, self._remark())
            self._break(ended)
            self._processes.check(absent=self._absent[0] if self._absent else None)
            self._feed(WINDOW - (total - len(self._waiting) - ended))
            time.sleep(LOOK_EVERY if ended < total else 0.0)
        self.seconds = time.monotonic() - started

    def statuses(self) -> dict[str, str]:
        """Each saga's status, `attention` behind it where a person is asked for; `missing` where there is no row."""
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT id, status, attention FROM saga")).all()
        found = {row.id: row.status if row.attention == "none" else f"{row.status}, {row.attention}" for row in rows}
        return {name: found.get(name, "missing") for name in self._cast.inputs}

    def _counts(self) -> Counter[str]:
        """The row says where each saga is: no API is needed to count them."""
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT status, count(*) AS sagas FROM saga GROUP BY status")).all()
        return Counter({row.status: row.sagas for row in rows})

    def _feed(self, room: int) -> None:
        for _ in range(min(room, len(self._waiting))):
            self._processes.signals.check()
            name, value = self._waiting.popleft()
            self._client.start(self._cast.definition, value, id=name)
            if name in self._twice:
                # An impatient customer: the same id, the same saga.
                self._client.start(self._cast.definition, value, id=name)
                self.duplicate_starts += 1

    def _break(self, ended: int) -> None:
        """Kill what is to be killed by now, and bring back what has been gone for long enough."""
        if self._absent is not None and time.monotonic() >= self._absent[1]:
            self._processes.restart(self._absent[0])
            self._absent = None
        if self._absent is None and self._plan and ended >= self._plan[0][0]:
            _, name = self._plan.popleft()
            self._processes.kill(name)
            self.killed.append(name)
            self._absent = (name, time.monotonic() + ABSENCE)

    def _remark(self) -> str:
        if self._absent is not None:
            return f"kill -9 {self._absent[0]}"
        return f"{self.killed[-1]} is back" if self.killed else ""
