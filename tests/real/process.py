"""A server process that outlives the command that started it, and is found again through a state file.

Only the process named in the state file is ever signalled, and only while its start time shows that the pid was not
given to somebody else meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

CHECKOUT = Path(__file__).resolve().parents[2]

#: Ports for servers, from and to: below the usual ranges of ephemeral ports (Linux from 32768, macOS from 49152).
PORTS = (15_000, 32_000)
#: Seconds between two looks at a condition that nobody can notify us of (another process's socket, its exit).
LOOK_EVERY = 0.05


class RealPartError(RuntimeError):
    """A real part can't be started, or does not answer; the message says what to look at."""


def real_directory() -> Path:
    """Where everything is kept: `.real` in the checkout, or SEGUE_TEST_DIR."""
    return Path(os.environ.get("SEGUE_TEST_DIR", CHECKOUT / ".real")).resolve()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now.

    It lies below the range that the kernel gives to outgoing connections: a client that keeps trying to reach a killed
    server would otherwise sooner or later be given the server's own port, connect to itself, and keep the server out.
    """
    while True:
        port = random.randrange(*PORTS)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback right now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Look until `condition()` holds; False if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        threading.Event().wait(LOOK_EVERY)
    return True


def started_at(pid: int) -> str | None:
    """A text that differs for every process that ever has this pid; None if there is none, or only a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    # No /proc (macOS, BSD): ps is there.
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return None if not shown.stdout.strip() or shown.stdout.startswith("Z") else shown.stdout.strip().partition(" ")[2]


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # no /proc, or a kernel without this file: ps is there
        shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = (line.split() for line in shown.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the state file says of a running server."""

    pid: int
    started_at: str
    port: int


class Server(ABC):
    """One server with a name, a directory, a port and at most one process.

    As a context manager it is started fresh (old data removed) and stopped at the end of the block; a server that was
    running before is used as it is and left running.
    """

    #: Kind of server; the name of its directory.
    kind: ClassVar[str]
    #: Seconds until it must answer.
    start_seconds: ClassVar[float] = 90.0
    #: Sent to stop it in an orderly way.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str = "main", *, port: int | None = None) -> None:
        self.name = name
        self.home = self._place() / name
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None

    # What the kinds differ in.

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why this machine can't run it, or None if it can."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What clients connect to. Raises RealPartError if it is not running."""

    @abstractmethod
    def answers(self, port: int) -> bool:
        """Whether it serves requests right now."""

    @abstractmethod
    def _prepare(self) -> None:
        """Lay down the data directory, if it is not there yet."""

    @abstractmethod
    def _command(self, port: int) -> Sequence[str]:
        """The command that becomes the server."""

    def _place(self) -> Path:
        return real_directory() / self.kind

    def _user(self) -> str | None:
        """The user to run as, if not the present one."""
        return None

    # The life of the process.

    @property
    def log(self) -> Path:
        """Its standard output and error."""
        return self.home / "server.log"

    @property
    def port(self) -> int:
        """The port it listens on. Raises RealPartError if it is not running."""
        return self._running_state().port

    @property
    def pid(self) -> int:
        """Its process id. Raises RealPartError if it is not running."""
        return self._running_state().pid

    def is_running(self) -> bool:
        """Whether the process of the state file lives and answers."""
        state = self._alive()
        return state is not None and self.answers(state.port)

    def start(self, *, fresh: bool = False) -> bool:
        """Make it run and answer; True if that needed a new process. `fresh` removes old data, unless it runs."""
        if reason := self.missing():
            raise RealPartError(reason)
        with self._locked():
            state = self._alive()
            if state is not None:
                if wait_until(lambda: self.answers(state.port), seconds=self.start_seconds):
                    return False
                self._end(state, self.stop_signal)
            if fresh:
                self._remove_data()
            self._prepare()
            self._spawn(self._next_port())
            return True

    def stop(self) -> bool:
        """End the process in an orderly way, data kept; True if there was one."""
        return self.finish(self.stop_signal)

    def kill9(self) -> bool:
        """End it as a power cut would; True if there was one."""
        return self.finish(signal.SIGKILL)

    def finish(self, how: signal.Signals) -> bool:
        """End it with this signal; True if there was one."""
        if not self.home.exists():
            return False
        with self._locked():
            return self._finish_unlocked(how)

    def restart(self) -> None:
        """Stop it if it runs, and run it again on the same data and the same port."""
        self.stop()
        with self._locked():
            self._prepare()
            self._spawn(self._next_port())

    def remove(self) -> None:
        """Stop it and remove all that it stored."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        self._ours = self.start(fresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self.stop()

    # Inside.

    def _spawn(self, port: int) -> None:
        user = self._user()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                start_new_session=True,
                user=user,
                group=user and _group_of(user),
                extra_groups=[] if user else None,
            )
        self._process = process
        self._write_state(State(pid=process.pid, started_at=started_at(process.pid) or "", port=port))
        wait_until(lambda: process.poll() is not None or self.answers(port), seconds=self.start_seconds)
        if process.poll() is not None or not self.answers(port):
            self._finish_unlocked(signal.SIGKILL)
            raise RealPartError(
                f"{self.kind} {self.name!r} did not come up; the end of {self.log}:\n{self._last_lines()}"
            )

    def _finish_unlocked(self, how: signal.Signals) -> bool:
        state = self._alive()
        if state is not None:
            self._end(state, how)
        return state is not None

    def _end(self, state: State, how: signal.Signals) -> None:
        if how is signal.SIGKILL:
            # PostgreSQL's helpers hold its shared memory a little longer than it lives; stopped, it can't fork another.
            _signal(state.pid, signal.SIGSTOP)
            for child in children(state.pid):
                _signal(child, how)
        _signal(state.pid, how)
        if not wait_until(lambda: self._gone(state), seconds=30):
            _signal(state.pid, signal.SIGKILL)
            if not wait_until(lambda: self._gone(state), seconds=10):
                raise RealPartError(f"{self.kind} {self.name!r} (pid {state.pid}) can't be killed")
        if self._process is not None and self._process.pid == state.pid:
            self._process.wait()

    def _gone(self, state: State) -> bool:
        if self._process is not None:
            self._process.poll()
        return started_at(state.pid) != state.started_at

    def _alive(self) -> State | None:
        state = self._last_state()
        return None if state is None or self._gone(state) else state

    def _last_state(self) -> State | None:
        try:
            return State(**json.loads(self._state_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _running_state(self) -> State:
        state = self._alive()
        if state is None:
            raise RealPartError(f"{self.kind} {self.name!r} is not running")
        return state

    def _next_port(self) -> int:
        # The port of the last run, so that clients which were connected find it again.
        last = self._last_state()
        return self._wanted_port or (last.port if last and is_free(last.port) else free_port())

    @property
    def _state_file(self) -> Path:
        return self.home / "state.json"

    def _write_state(self, state: State) -> None:
        temporary = self._state_file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(state)))
        temporary.replace(self._state_file)

    def _remove_data(self) -> None:
        for path in self.home.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _last_lines(self, count: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time per server, across processes."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _signal(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def command_line(server: type[Server], arguments: Sequence[str]) -> int:
    """`start|stop|kill9|restart|status|remove [NAME]`; prints the address.

    Exit codes: 0 = done, 1 = not running, 2 = wrong usage, or it failed.
    """
    verbs = ("start", "stop", "kill9", "restart", "status", "remove")
    if not 1 <= len(arguments) <= 2 or arguments[0] not in verbs:
        print(f"usage: python -m tests.real.{server.kind} {'|'.join(verbs)} [NAME]")
        return 2
    one = server(*arguments[1:])
    try:
        if arguments[0] == "status":
            print(one.address if one.is_running() else "not running")
            return 0 if one.is_running() else 1
        getattr(one, arguments[0])()
        print(one.address if arguments[0] in {"start", "restart"} else "stopped")
    except RealPartError as error:
        print(f"{server.kind}: {error}")
        return 2
    return 0
