"""Replays under other hash seeds: in another process a set of texts has another order, and saga code that goes over one
does something else there.

A seed is a process's for life, so each has a process of its own. They are started when they are needed first, import
the module of each saga once, serve all tests of this process, and end with it.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from queue import Empty, Queue
from types import ModuleType
from typing import IO, Any

import msgspec

from segue.errors import SegueError
from segue.saga.definition import SagaDefinition
from segue.saga.failures import Nondeterminism
from segue.saga.replay import rebuild
from segue.saga.runs import begins_run
from segue.topics.converter import Converter

#: A set of two texts keeps its order under every other seed: with these it does so once in four times.
_SEEDS = ("1", "2", "3")
_USED = 2
#: Seconds that such a process may take, with the imports of the saga's module.
PATIENCE = 60.0
_SERVE = "from segue.testing.reseeded import serve; serve()"
#: Marks such a process: sagas that are tested while a module is imported there are not replayed again.
_MARK = "SEGUE_RESEEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What replays under other seeds have shown."""

    #: What the code does otherwise there; empty if nothing.
    difference: str = ""
    #: Why there was no replay; empty if there was one.
    unreachable: str = ""


class _Request(msgspec.Struct, kw_only=True):
    module: str
    file: str
    saga: str
    version: int
    fingerprint: str
    id: str
    rows: list[tuple[int, msgspec.Raw]]


class _Answer(msgspec.Struct, kw_only=True):
    difference: str = ""
    unreachable: str = ""


class _Other:
    """A process with another seed."""

    def __init__(self, seed: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with code of ours
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                _MARK: "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
        self._answers: Queue[bytes] = Queue()
        threading.Thread(target=self._listen, name="segue-reseeded", daemon=True).start()
        atexit.register(self.close)

    def ask(self, request: _Request) -> Compared:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=PATIENCE)
        except Empty:
            self._process.kill()
            return Compared(unreachable=f"a process with another hash seed did not answer within {PATIENCE:g} s")
        except OSError:
            line = b""
        if not line:
            return Compared(unreachable="a process with another hash seed has ended")
        answer = msgspec.json.decode(line, type=_Answer)
        return Compared(difference=answer.difference, unreachable=answer.unreachable)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")


def compare(definition: SagaDefinition[Any, Any], saga_id: str, rows: Sequence[tuple[int, bytes]]) -> Compared:
    """Replay this history of a saga under other hash seeds; `rows` are (microseconds, payload) by transition."""
    if _MARK in os.environ or not rows:
        return Compared()
    name = getattr(definition.function, "__module__", "")
    module = sys.modules.get(name)
    if name == "__main__" or module is None:
        return Compared(unreachable=f"saga {definition.name!r} is in a script and in no module that can be imported")
    if _found(module, definition.name, definition.version, definition.fingerprint) is None:
        return Compared(unreachable=f"saga {definition.name!r} is not at the top level of module {name}")
    request = _Request(
        module=name,
        file=getattr(module, "__file__", None) or "",
        saga=definition.name,
        version=definition.version,
        fingerprint=definition.fingerprint,
        id=saga_id,
        rows=[(at, msgspec.Raw(payload)) for at, payload in rows],
    )
    try:
        others = _others(os.getpid())
    except (OSError, TypeError) as error:  # no such program, no more processes; no interpreter of which anybody knows
        return Compared(unreachable=f"a process with another hash seed can't be started: {error}")
    answers = [other.ask(request) for other in others]
    return next((answer for answer in answers if answer.difference), answers[0])


@cache
def _others(_pid: int) -> list[_Other]:
    """Of this process: one that was forked has pipes that are another's."""
    seeds = [seed for seed in _SEEDS if seed != os.environ.get("PYTHONHASHSEED")]
    return [_Other(seed) for seed in seeds[:_USED]]


# --- in the other process


def serve() -> None:
    """Answer each line of the input with a line, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what modules print is no answer
    _serve(sys.stdin.buffer, answers)


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    for line in requests:
        answer = _replayed(msgspec.json.decode(line, type=_Request))
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def _replayed(request: _Request) -> _Answer:
    try:
        module = _module(request.module, request.file)
    except BaseException as error:  # noqa: BLE001 - whatever a module does as it is imported
        return _Answer(unreachable=f"module {request.module} can't be imported: {type(error).__name__}: {error}"[:500])
    definition = _found(module, request.saga, request.version, request.fingerprint)
    if definition is None:
        return _Answer(unreachable=f"saga {request.saga!r} is another one where {request.module} is imported anew")
    rows = [(at, bytes(payload)) for at, payload in request.rows]
    ends = [n for n in range(1, len(rows)) if begins_run(rows[n][1])]
    for end in (*ends, len(rows)):
        try:
            instance = rebuild(request.id, rows[:end], definition, Converter(), exact=True)
        except Nondeterminism as difference:
            return _Answer(difference=str(difference))
        except SegueError as error:
            return _Answer(unreachable=f"{type(error).__name__}: {error}"[:500])
        if instance.program is not None:
            instance.program.close()
    return _Answer()


@cache
def _module(name: str, file: str) -> ModuleType:
    """The module, imported as it was there; by its file where its name alone leads nowhere."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(name, file) if file else None
        if spec is None or spec.loader is None:
            raise
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _found(module: ModuleType, name: str, version: int, fingerprint: str) -> SagaDefinition[Any, Any] | None:
    for value in list(vars(module).values()):
        if isinstance(value, SagaDefinition):
            found: SagaDefinition[Any, Any] = value
            if (found.name, found.version, found.fingerprint) == (name, version, fingerprint):
                return found
    return None
