"""Transfers on real Kafka and PostgreSQL while processes die at chosen places; each life of one has its own plan."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from examples.driver.estate import Estate, estate
from examples.driver.options import Options
from examples.driver.play import Cast, Service, prepare
from examples.driver.processes import Processes
from examples.driver.signals import Signals
from examples.transfer.contracts import BANKS, Transfer
from examples.transfer.sagas import transfer_saga
from examples.transfer.workload import transfers
from segue.client import Client
from segue.failpoints import VARIABLE

SEGUE = (sys.executable, "-m", "segue.cli.main")
ENDED = ("completed", "compensated", "failed", "cancelled")
#: Transfers under way at a time, while there are still lives to be lived.
WINDOW = 15


@dataclass(slots=True)
class Bank:
    """The transfers under way and the processes that carry them."""

    place: Estate
    processes: Processes
    client: Client
    engine: Engine
    wanted: deque[Transfer]
    #: Name of a process → the failpoints of its further lives; after the last one it lives on without any.
    lives: dict[str, deque[str]] = field(default_factory=dict)
    started: list[Transfer] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    _planned: dict[str, str] = field(default_factory=dict)

    def live(self, name: str, plans: Sequence[str], *, part: str | None = None) -> None:
        """Start a process; `plans` are the failpoints of its lives, one each."""
        self.lives[name] = deque(plans)
        self._parts = {**getattr(self, "_parts", {}), name: part or name}
        self._next_life(name)

    def step(self, window: int = WINDOW) -> None:
        """Feed up to `window` transfers, bring the dead back to life."""
        under_way = len(self.started) - self.ended()
        for _ in range(min(window - under_way, len(self.wanted))):
            transfer = self.wanted.popleft()
            self.started.append(transfer)
            self.client.start(transfer_saga, transfer, id=transfer.id)
        for name in self.lives:
            code = self.processes.code(name)
            if code is None:
                continue
            assert code == -signal.SIGKILL, f"{name} ended with code {code}:\n{self.processes.tail(name, 40)}"
            self.deaths.append(self._planned[name])
            self._next_life(name)

    def until(self, condition: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Go on until `condition` holds. A bound, not a measurement."""
        give_up = time.monotonic() + seconds
        while not condition():
            self.step()
            if time.monotonic() > give_up:
                tails = "\n".join(f"--- {name}\n{self.processes.tail(name, 12)}" for name in self.lives)
                raise AssertionError(
                    f"not within {seconds:g} s: {what}; dead so far: {self.deaths}\n{self.stuck()}\n{tails}"
                )
            self.processes.signals.check()
            time.sleep(0.1)

    def finish(self, seconds: float = 120) -> None:
        """No further lives, no further transfers: everything under way comes to its end."""
        self.wanted.clear()
        self.until(lambda: self.ended() == len(self.started), seconds=seconds, what="every transfer has ended")

    def ended(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM saga WHERE ended_at IS NOT NULL")).scalar_one())

    def stuck(self) -> str:
        with self.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT id, status, attention, waiting_for, error_message FROM saga WHERE ended_at IS NULL LIMIT 5"
                )
            ).all()
        return "\n".join(map(str, rows))

    def statuses(self) -> dict[str, str]:
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, status FROM saga")).all()
        return {row.id: row.status for row in rows}

    def freeze(self, name: str) -> None:
        os.kill(self.processes.pid(name), signal.SIGSTOP)

    def is_frozen(self, name: str) -> bool:
        """Whether the process has stopped itself."""
        return Path(f"/proc/{self.processes.pid(name)}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def thaw(self, name: str) -> None:
        os.kill(self.processes.pid(name), signal.SIGCONT)

    def _next_life(self, name: str) -> None:
        plans = self.lives[name]
        plan = self._planned[name] = plans.popleft() if plans else ""
        part = self._parts[name]
        environment = {**self.place.environment(part), VARIABLE: plan}
        if name != part:
            environment["SEGUE_KAFKA_PROPERTIES"] = environment["SEGUE_KAFKA_PROPERTIES"].replace(
                f"{self.place.run}-{part}", f"{self.place.run}-{name}"
            )
        command: tuple[str, ...] = (*SEGUE, "coordinator", "run")
        if part in BANKS:
            environment["BANK"] = part
            command = (*SEGUE, "worker", "run", "examples.transfer.bank:worker")
        self.processes.start(name, command, environment)

    _parts: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def bank(directory: Path, bootstrap: str, server: str, *, seed: int) -> Iterator[Bank]:
    """An estate of coordinator, three banks and many transfers; no process runs yet."""
    options = Options(
        count=1, bootstrap=bootstrap, database_server=server, keep=None, json=True, faults=False, seed=seed
    )
    services = [Service(name=name, module="examples.transfer.bank", environment={"BANK": name}) for name in BANKS]
    cast = Cast(
        title="transfers",
        coordinator="transfer",
        sagas="examples.transfer.sagas",
        definition=transfer_saga,
        inputs={},
        services=services,
        victims=BANKS,
    )
    with (
        estate(options, coordinator="transfer", sagas=cast.sagas, services=BANKS) as place,
        Signals() as signals,
        Processes(directory, signals) as processes,
    ):
        prepare(cast, place, processes)
        engine = create_engine(place.databases["coordinator"])
        client = Client.connect(
            bootstrap=bootstrap, coordinator=place.names.coordinator, database=place.databases["coordinator"]
        )
        try:
            with client:
                yield Bank(place, processes, client, engine, deque(transfers(4000, seed)))
        finally:
            engine.dispose()
