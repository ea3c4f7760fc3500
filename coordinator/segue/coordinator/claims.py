"""What a transaction says beside its tables: kept until its COMMIT is confirmed, so that none of it is untrue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from segue.coordinator.breaker import Breaker
from segue.observe import Observer
from segue.saga.events import Failure
from segue.saga.state import SagaState


class Claims:
    """An observer and a breaker for as long as one transaction is open.

    `confirm` passes on what they were told; whoever drops this, drops that. A transaction whose COMMIT nobody knows
    the outcome of is dropped, too: counts may fall short of what is committed, but never exceed it.
    """

    def __init__(self, observer: Observer, breaker: Breaker) -> None:
        self._observer = observer
        self._breaker = breaker
        self._counts: dict[str, int] = {}
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._undos: list[tuple[str, int]] = []

    def count(self, name: str, n: int = 1) -> None:
        """`name` happened `n` times, if the transaction commits."""
        self._counts[name] = self._counts.get(name, 0) + n

    def event(self, name: str, **fields: Any) -> None:
        """Something a person may want to read in the log, if the transaction commits."""
        self._events.append((name, fields))

    def blocked(self, state: SagaState, failure: Failure, raised: Sequence[str]) -> None:
        """A saga's code can't go on; `raised`: the lines of its traceback, if it raised something.

        What its message says of a payload stays out of the log.
        """
        self.event(
            "saga.blocked",
            saga=state.id,
            definition=f"{state.definition} v{state.version}",
            error=failure.code,
            traceback=raised,
        )

    def warning(self, saga_id: str) -> Callable[[str], None]:
        """Takes what a replay warns of."""
        return lambda difference: self.event("replay.alert", saga=saga_id, difference=difference)

    def held_until(self, definition: str, now: int) -> int | None:
        """As `Breaker.held_until`; the undos that begin with this transaction count."""
        beginning = [at for name, at in self._undos if name == definition] if self._undos else ()
        return self._breaker.held_until(definition, now, beginning)

    def undo_begun(self, definition: str, now: int) -> None:
        """An undo that no person asked for begins, if the transaction commits."""
        self._undos.append((definition, now))

    def confirm(self) -> None:
        """The transaction is known to be committed."""
        for name, n in self._counts.items():
            self._observer.count(name, n)
        for name, fields in self._events:
            self._observer.event(name, **fields)
        for definition, now in self._undos:
            self._breaker.begun(definition, now)
        self._counts, self._events, self._undos = {}, [], []
