"""How rules of the product are broken, in tests only: functions are replaced, and put back."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
#: What a mutant raises that does not fit the product any more; the product survives it, and an oracle would object.
_MISTAKES = (TypeError, AttributeError, NameError, ValueError)


class Patch:
    """Replaces attributes, and puts them back."""

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []
        #: Mistakes of what was put in: then nothing was shown by what an oracle says.
        self.mistakes: list[BaseException] = []

    def __call__(self, owner: Any, name: str, new: Any) -> Any:
        old = getattr(owner, name)
        self._saved.append((owner, name, owner.__dict__.get(name, old) if isinstance(owner, type) else old))
        watched = isinstance(new, FunctionType) and not inspect.isgeneratorfunction(new)
        setattr(owner, name, self._watched(new) if watched else new)
        return old

    def _watched(self, new: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(new)
        def watched(*args: Any, **more: Any) -> Any:
            try:
                return new(*args, **more)
            except _MISTAKES as error:
                if _is_own(error):
                    self.mistakes.append(error)
                raise

        return watched

    @property
    def broken(self) -> int:
        """How many attributes are replaced."""
        return len(self._saved)

    def undo(self) -> None:
        while self._saved:
            owner, name, old = self._saved.pop()
            setattr(owner, name, old)


def _is_own(error: BaseException) -> bool:
    """Whether it was raised by a mutant's lines, or by the call of it, and not by what they call of the product."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [file for file in files if file.is_relative_to(_ROOT) and "site-packages" not in file.parts]
    return not ours or (ours[-1].parent == _HERE and ours[-1].name.startswith(("broken", "patching")))


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule, and how to break it."""

    breaks: str
    apply: Callable[[Patch], None]
    #: On which databases it shows.
    tier: str = "memory"
    #: The focus of every second schedule: for what the plain swarm rarely comes to.
    focus: str | None = None


MUTANTS: dict[str, Mutant] = {}


def mutant(
    breaks: str, tier: str = "memory", focus: str | None = None
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a mutant under the function's name."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[apply.__name__] = Mutant(breaks, apply, tier, focus)
        return apply

    return register
