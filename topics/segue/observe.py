"""What happens inside, for logs, metrics and tests; failpoints for fault tests.

`Observer` is a port of two methods so that the loops depend on no logging or metrics library. Names of events are
dotted and stable: they are documented and dashboards rely on them.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any, Protocol

from segue.errors import for_log

#: Lines of a traceback that are logged, at most.
TRACEBACK_LINES = 60


class Observer(Protocol):
    """Receives counts and events of the loops; must not raise and must not block."""

    def count(self, name: str, n: int = 1) -> None:
        """`name` happened `n` times."""
        ...

    def event(self, name: str, **fields: Any) -> None:
        """Something a person may want to read in the log."""
        ...


class Silent:
    """Drops everything."""

    def count(self, name: str, n: int = 1) -> None:
        pass

    def event(self, name: str, **fields: Any) -> None:
        pass


class Logging:
    """Counts in memory, events to the `segue` logger as `name key=value …` on one line, control characters escaped.

    A field `traceback` holds an exception, or lines of one: its traceback follows, each line behind `  | `.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._logger = logger or logging.getLogger("segue")

    def count(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    def event(self, name: str, **fields: Any) -> None:
        level = logging.WARNING if name.endswith((".failed", ".blocked", ".dead", ".alert")) else logging.INFO
        raised = fields.pop("traceback", None)
        text = " ".join(f"{key}={_logged(value):.300}" for key, value in fields.items())
        lines = [f"{name} {text}", *(traceback_of(raised) if isinstance(raised, BaseException) else raised or ())]
        self._logger.log(level, "%s", "\n  | ".join(line.encode("unicode_escape").decode("ascii") for line in lines))


def traceback_of(error: BaseException, *, messages: bool = True) -> list[str]:
    """Where it was raised, and what it came of before that; `messages`, too, which may show what is in a payload."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.insert(0, found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    lines: list[str] = []
    for one in chain:
        lines += [line for entry in traceback.format_tb(one.__traceback__) for line in entry.splitlines()]
        lines.append(_shown(one) if messages else type(one).__name__)
    return lines[-TRACEBACK_LINES:]


def _shown(error: BaseException) -> str:
    try:
        return for_log(error)
    except BaseException:  # noqa: BLE001 - a broken __str__ of somebody's exception
        return type(error).__name__


def _logged(value: object) -> str:
    return for_log(value) if isinstance(value, BaseException) else str(value)


SILENT = Silent()
