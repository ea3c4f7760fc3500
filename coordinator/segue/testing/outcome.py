"""What became of a saga in a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from segue.contract import Attribute
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.state import Attention
from segue.testing.failures import SagaTestError
from segue.testing.recorded import export
from segue.testing.virtual import VirtualSaga, describe_failure

O = TypeVar("O")  # noqa: E741 - the field's own letter: output
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One event of the history: `at` since the start, `type` as in `StepSucceeded`, the rest as plain JSON values."""

    at: timedelta
    type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outcome(Generic[O]):
    """How a run ended, or where it stands if nothing but a signal or a person can move it on."""

    #: running, compensating, completed, compensated, failed or cancelled.
    status: str
    #: none, parked, blocked, deferred or in_doubt.
    attention: Attention
    #: Why it did not complete (or is blocked or parked): `code`, `message`, `kind`.
    error: e.Failure | None
    #: Virtual time from the start to the last transition.
    elapsed: timedelta
    history: tuple[HistoryEvent, ...]
    #: What a saga that has not ended waits for: steps, undos, signals.
    waiting_for: tuple[str, ...]
    #: Replies, signals and requests that changed nothing: duplicates, late ones, what was not allowed.
    ignored: tuple[Ignored, ...]
    #: Signals that were no values of their type, or that the saga's code had not received by its end: (name, why).
    dropped: tuple[tuple[str, str], ...]
    #: Everything that was said, as text.
    conversation: str
    _saga: VirtualSaga = field(compare=False)

    @property
    def result(self) -> O:
        """What the saga returned, by `s.compensated`, too. Raises SagaTestError if it did not."""
        data = self._saga.state.result
        if self.status not in ("completed", "compensated") or data is None:
            raise SagaTestError(f"the saga has no result, it is {self._saga.situation()}" + self._saga.story())
        definition = self._saga.definition
        return cast("O", self._saga.converter.from_bytes(bytes(data), definition.output_type))

    def query(self, attribute: Attribute[T]) -> T | None:
        """The attribute's value, None where the saga has not set it."""
        return self._saga.attribute(attribute)

    def export(self, path: Path | str | None = None) -> str:
        """The history as JSON lines, for `segue.testing.replay`; written to `path`, too."""
        text = export(self._saga.rows, self._saga.saga_id)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __repr__(self) -> str:
        attention = f", attention={self.attention!r}" if self.attention != "none" else ""
        error = f", error={describe_failure(self.error)!r}" if self.error is not None else ""
        return f"Outcome(status={self.status!r}{attention}{error}, elapsed={self.elapsed})"


def outcome_of(saga: VirtualSaga) -> Outcome[Any]:
    """The outcome as it stands."""
    state = saga.state
    return Outcome(
        status=state.status,
        attention=state.attention,
        error=state.blocked or state.parked or state.error,
        elapsed=timedelta(microseconds=state.updated_at - state.started_at),
        history=tuple(
            HistoryEvent(
                at=timedelta(microseconds=at - state.started_at), type=type(event).__name__, payload=_payload(event)
            )
            for at, event in saga.events
        ),
        waiting_for=saga.waiting_for,
        ignored=tuple(saga.ignored),
        dropped=tuple((dropped.signal.signal, dropped.message) for dropped in saga.dropped),
        conversation=saga.story().strip(),
        _saga=saga,
    )


def _payload(event: e.AnyEvent) -> dict[str, Any]:
    plain = e.describe(event)
    plain.pop("type")
    return plain
