"""Undoing a part of a saga now, while its code goes on: `s.undo` and `s.scope`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from segue.contract import Activity
from segue.errors import ContractError
from segue.saga import events as e
from segue.saga.failures import SagaError, SagaFailed
from segue.saga.program import leaves_of

if TYPE_CHECKING:
    from segue.saga.program import Program

#: The scopes that the code of a task is in, the innermost last; tasks that it makes are in them, too.
_SCOPES: ContextVar[tuple[Scope, ...]] = ContextVar("segue_scopes", default=())


class Scope:
    """A part of a saga that is undone by itself if a failure leaves it: `async with s.scope("booking") as booking:`."""

    __slots__ = ("_program", "_token", "failure", "name", "steps")

    def __init__(self, program: Program, name: str) -> None:
        self._program = program
        #: The steps that were called in it, in their order.
        self.steps: list[str] = []
        self._token: Token[tuple[Scope, ...]] | None = None
        self.name = name
        #: What left the scope, and was undone for: None where nothing did.
        self.failure: Exception | None = None

    @property
    def undone(self) -> bool:
        """Whether a failure has left the scope, and all that was done in it is undone."""
        return self.failure is not None

    async def __aenter__(self) -> Scope:
        if self._token is not None:
            raise ContractError(f"scope {self.name!r} is entered a second time; make a new one")
        self._token = _SCOPES.set((*_SCOPES.get(), self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, GeneratorExit):
            return False  # thrown away with its saga, in no task any more
        assert self._token is not None
        _SCOPES.reset(self._token)
        program = self._program
        if error is None or program.stopped or program.pivot:
            return False
        if isinstance(error, asyncio.CancelledError):
            self.failure = SagaFailed("cancelled", f"scope {self.name!r} was left")
            request_undo(program, self.steps, self.name)  # goes on without the code, which is to leave at once
            return False
        if not isinstance(error, Exception) or not all(map(_is_failure, leaves_of(error))):
            return False  # nothing is undone for a bug
        self.failure = error
        undo = request_undo(program, self.steps, self.name)
        if undo is not None:
            await undo
        return True


def enter_step(name: str) -> None:
    """A step is called; raises SagaFailed where a scope that the caller is in was undone already."""
    for scope in _SCOPES.get():
        if scope.failure is not None:
            raise SagaFailed("scope_undone", f"scope {scope.name!r} is undone; nothing more is done in it")
        scope.steps.append(name)


def request_undo(program: Program, names: Iterable[str], scope: str = "") -> asyncio.Future[None] | None:
    """Have these steps undone; done when they are. What is in flight is given up. None: there is nothing to undo."""
    steps = []
    for name in names:
        pending = program.steps.pop(name, None)
        if pending is not None:
            program.requests.append(e.StepAbandoned(step=name))
            pending.future.cancel()
        if program.compensable.pop(name, None) is not None:
            steps.append(name)
            if name in program.undoable:
                program.undoable.remove(name)
    if not steps:
        return None
    n = program.undos_asked = program.undos_asked + 1
    program.requests.append(e.UndoRequested(n=n, steps=tuple(steps), scope=scope))
    future = program.undos[n] = program.loop.create_future()
    return future


def step_to_undo(program: Program, step: str | Activity[Any, Any], of_run: str) -> str:
    """The occurrence that `s.undo` means. Raises ContractError where there is none, or more than one."""
    known = program.compensable
    if isinstance(step, str):
        for name in (step, step + of_run):
            if name in known:
                return name
        raise ContractError(f"undo: no step {step!r} that has a compensation, and is not undone yet, was called")
    found = [name for name, activity in known.items() if activity == step.name]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ContractError(f"undo: {step.name} was not called with a compensation, or is undone already")
    raise ContractError(f"undo: {step.name} was called {len(found)} times; name the step, as in s.undo({found[-1]!r})")


def _is_failure(error: BaseException) -> bool:
    """Whether this is one of those that start an undo."""
    return isinstance(error, SagaError | TimeoutError)
