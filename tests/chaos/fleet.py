"""The processes: 3 coordinators, 3 banks × 2 workers, 2 relays, the driver; and who starts them again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.driver.processes import Processes
from examples.driver.signals import Signals
from examples.transfer.contracts import BANKS
from tests.chaos.estate import Estate
from tests.chaos.history import History
from tests.chaos.versions import NEW, OLD

SEGUE = (sys.executable, "-m", "segue.cli.main")
COORDINATORS = ("coordinator-1", "coordinator-2", "coordinator-3")
WORKERS = tuple(f"{bank}-{number}" for bank in BANKS for number in (1, 2))
RELAYS = ("relay-1", "relay-2")
MEMBERS = (*COORDINATORS, *WORKERS, *RELAYS)
DRIVER = "driver"
#: What reaches its servers through proxies.
FAR = ("coordinator-3", "bank_b-1", "bank_b-2")
#: Members that keep their partitions while they are restarted (KIP-345); the others do not.
STATIC = ("coordinator-1", "bank_c-1", "bank_c-2")
#: Seconds after which whoever ended by itself is started again, as any supervisor does.
RESPAWN = 1.0


@dataclass(slots=True)
class Fleet:
    """Starts, kills, freezes and restarts; a process that ends by itself is started again and noted."""

    place: Estate
    processes: Processes
    history: History
    #: Coordinator → the module of its sagas.
    sagas: dict[str, str] = field(default_factory=lambda: dict.fromkeys(COORDINATORS, OLD))
    #: Down on purpose: nobody starts them again but who took them down.
    down: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _gone: dict[str, float] = field(default_factory=dict)

    @property
    def signals(self) -> Signals:
        return self.processes.signals

    def prepare(self) -> None:
        """Schema, topics, the banks' tables."""
        coordinator = self.place.environment("prepare", "coordinator") | {"SEGUE_COORDINATOR_SAGAS": NEW}
        services = [argument for bank in BANKS for argument in ("--service", bank)]
        commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
            "schema": ((*SEGUE, "db", "upgrade"), coordinator),
            "topics": ((*SEGUE, "topics", "create", *services), coordinator),
        }
        for bank in BANKS:
            command = (sys.executable, "-m", "examples.transfer.bank")
            commands[f"{bank}-tables"] = (command, self.place.environment("prepare", bank))
        self.processes.run(commands)

    def start_all(self) -> None:
        for name in MEMBERS:
            self.start(name)

    def start(self, name: str) -> None:
        """Start it, as it is configured by now."""
        self._note_end(name)
        self.down.discard(name)
        self._gone.pop(name, None)
        self.history.write("started", process=name)
        self.processes.start(name, *self._how(name))

    def drive(self, *, seed: int, rate: float, most: int) -> None:
        """Start the driver, which starts sagas until it is told to stop, or has started `most`."""
        command = (sys.executable, "-m", "tests.chaos.load")
        arguments = (self.place.bootstrap, self.place.databases["driver"], str(self.place.history))
        self.processes.start(DRIVER, (*command, *arguments, str(seed), str(rate), str(most)), {})

    def stop(self, name: str) -> None:
        """Ask it to drain and end."""
        self.down.add(name)
        self._told.add(name)
        self._signal(name, signal.SIGTERM)

    def give_up(self, name: str) -> None:
        """It was asked to end, and does not: an offence. Nobody waits for it any longer."""
        self.history.write("hangs", process=name)
        self.kill(name)

    def kill(self, name: str) -> bool:
        """As the kernel would; True if it was alive."""
        self.down.add(name)
        self._told.discard(name)
        alive = self.processes.code(name) is None
        self._signal(name, signal.SIGKILL)
        return alive

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    def is_frozen(self, name: str) -> bool:
        return Path(f"/proc/{self.processes.pid(name)}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def is_whole(self, target: str) -> bool:
        """Whether it is none of our processes, or one that runs."""
        return target not in MEMBERS or (target not in self.down and not self.has_ended(target))

    def has_ended(self, name: str) -> bool:
        return self.processes.code(name) is not None

    def tend(self) -> None:
        """Start again what ended by itself, a second later."""
        now = time.monotonic()
        for name in MEMBERS:
            code = None if name in self.down else self.processes.code(name)
            if code is None:
                continue
            if name not in self._gone:
                self._gone[name] = now + RESPAWN
                self.history.write("exit", process=name, code=code, said=self.processes.tail(name, 3))
            elif now >= self._gone[name]:
                self.start(name)

    def pause(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, restart who ended; True as soon as `until` holds. Raises Interrupted after a signal."""
        give_up = time.monotonic() + seconds
        while not until():
            self.signals.check()
            self.tend()
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, 0.1))
        return True

    def _note_end(self, name: str) -> None:
        """How it has ended after it was asked to."""
        if name in self._told:
            self._told.discard(name)
            self.history.write("ended", process=name, code=self.processes.code(name), said=self.processes.tail(name, 3))

    def _signal(self, name: str, how: signal.Signals) -> None:
        if self.processes.code(name) is None:
            os.kill(self.processes.pid(name), how)

    def _how(self, name: str) -> tuple[Sequence[str], Mapping[str, str]]:
        part = name.rpartition("-")[0]
        part = "driver" if part == "relay" else part
        environment = self.place.environment(name, part, far=name in FAR, static=name in STATIC)
        segue: tuple[str, ...] = SEGUE
        if name in self.place.clocks:
            segue = (sys.executable, "-m", "tests.chaos.jumping_clock", str(self.place.clocks[name].file))
        if name in COORDINATORS:
            environment["SEGUE_COORDINATOR_SAGAS"] = self.sagas[name]
            return (*segue, "coordinator", "run"), environment
        if name in RELAYS:
            return (*segue, "relay", "run"), environment
        return (*segue, "worker", "run", "examples.transfer.bank:worker"), environment


@contextmanager
def fleet(place: Estate, history: History, signals: Signals) -> Iterator[Fleet]:
    """No process of it outlives the block."""
    with Processes(place.directory, signals) as processes:
        one = Fleet(place, processes, history)
        try:
            yield one
        finally:
            # A stopped process does not hear that it is to end.
            for name in MEMBERS:
                if name in processes.names:
                    one.thaw(name)
