"""Child processes: started, killed, started again, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from examples.driver.signals import Signals

CHECKOUT = Path(__file__).resolve().parents[2]
#: Seconds that a process gets to finish what it has begun, before it is killed.
DRAIN = 15.0


class DemoFailed(Exception):
    """The demo can't go on; the message says where to look."""


@dataclass(slots=True, kw_only=True)
class _Part:
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None


@dataclass(slots=True)
class Processes:
    """The processes of a demo, each with a log file of its own in `directory`.

    As a context manager it ends them all, whatever happens in the block.
    """

    directory: Path
    signals: Signals
    _parts: dict[str, _Part] = field(default_factory=dict)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(0.0 if kind is not None else DRAIN)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process under this name."""
        self._parts[name] = _Part(command=command, environment=environment, log=self.directory / f"{name}.log")
        self.restart(name)

    def restart(self, name: str) -> None:
        """Start the process of this name once more, exactly as before."""
        part = self._parts[name]
        assert part.process is None or part.process.poll() is not None, f"{name} is running"
        with part.log.open("ab") as log:
            part.process = subprocess.Popen(
                [sys.executable, "-m", "examples.driver.leash", str(os.getpid()), *part.command],
                env={**os.environ, "PYTHONPATH": _path(), **part.environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that Ctrl-C reaches the demo alone, which then ends the others.
                start_new_session=True,
            )

    def run(self, commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> None:
        """Run commands that end by themselves, all at once. Raises DemoFailed where one fails."""
        for name, (command, environment) in commands.items():
            self.start(name, command, environment)
        for name in commands:
            process = self._parts[name].process
            assert process is not None
            while process.poll() is None:
                self.signals.check()
                time.sleep(0.05)
            if process.returncode != 0:
                raise DemoFailed(f"{name} failed with code {process.returncode}:\n{self.tail(name)}")
            del self._parts[name]

    def kill(self, name: str) -> None:
        """End it as `kill -9` does: it gets no chance to finish anything."""
        process = self._parts[name].process
        assert process is not None
        process.kill()
        process.wait()

    def code(self, name: str) -> int | None:
        """The exit code of a process that has ended, negative if a signal ended it; None while it runs."""
        process = self._parts[name].process
        assert process is not None
        return process.poll()

    @property
    def names(self) -> Collection[str]:
        """All that were started and not forgotten since."""
        return self._parts.keys()

    def pid(self, name: str) -> int:
        """The process id of this name, as it runs now."""
        process = self._parts[name].process
        assert process is not None
        return process.pid

    def check(self, absent: str | None = None) -> None:
        """Raises DemoFailed if a process has ended unkilled (`absent` may be down), Interrupted after a signal."""
        self.signals.check()
        for name, part in self._parts.items():
            if name != absent and part.process is not None and part.process.poll() is not None:
                raise DemoFailed(f"{name} ended with code {part.process.returncode}:\n{self.tail(name)}")

    def stop_one(self, name: str, patience: float = DRAIN) -> None:
        """Ask this one to end, kill it after that many seconds, forget it."""
        process = self._parts.pop(name).process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self, patience: float = DRAIN) -> None:
        """Ask all to end, wait that many seconds for them together, then kill what is left."""
        running = [part.process for part in self._parts.values() if part.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                patience = 0.0
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._parts.clear()

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a process's log."""
        log = self.directory / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _path() -> str:
    """Where the processes find `examples`, wherever they run."""
    return os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
