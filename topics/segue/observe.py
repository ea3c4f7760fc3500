"""What happens inside, for logs, metrics and tests; failpoints for fault tests.

`Observer` is a port of two methods so that the loops depend on no logging or metrics library. Names of events are
dotted and stable: they are documented and dashboards rely on them.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from segue.errors import for_log


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
    """Counts in memory, events to the `segue` logger as `name key=value …` on one line, control characters escaped."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._logger = logger or logging.getLogger("segue")

    def count(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    def event(self, name: str, **fields: Any) -> None:
        level = logging.WARNING if name.endswith((".failed", ".blocked", ".dead", ".alert")) else logging.INFO
        text = " ".join(f"{key}={_logged(value):.300}" for key, value in fields.items())
        self._logger.log(level, "%s", f"{name} {text}".encode("unicode_escape").decode("ascii"))


def _logged(value: object) -> str:
    return for_log(value) if isinstance(value, BaseException) else str(value)


SILENT = Silent()
