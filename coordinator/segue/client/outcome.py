"""What a look at the database means to somebody who waits for a saga: nothing yet, its output, or an error. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import msgspec

from segue.client.rows import ENDED, Refusal, SagaDescription, Sight
from segue.client.waiting import check_wait
from segue.contract import Attribute
from segue.errors import (
    InputError,
    InvalidPayload,
    NotAllowed,
    NotFound,
    SegueError,
    StartConflict,
    StoreUnavailable,
)
from segue.saga.definition import SagaDefinition
from segue.saga.failures import SagaError
from segue.topics.converter import Converter

O = TypeVar("O")  # noqa: E741 - the field's own letter: output
T = TypeVar("T")

#: Seconds between two looks at a saga: the first, and the longest; each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
#: Seconds for which a database that does not answer is asked again.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The start that a handle came from."""

    request_id: str
    input: bytes
    coordinator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Generic[O]):
    """The saga completed."""

    output: O


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Generic[O]):
    """The saga that a handle is about, and what its caller believes it to be (`definition` None: anything)."""

    id: str
    definition: str | None
    input_type: Any
    output_type: Any
    converter: Converter
    started: Started | None = None

    def row(self, sight: Sight) -> SagaDescription:
        """The row. Raises NotFound where there is none, StartConflict where it is another saga than was started."""
        if sight.row is None:
            self._check_refusals(sight)
            raise NotFound(f"there is no saga {self.id!r}; if it was started just now, its start is still on its way")
        self._check_same(sight.row)
        return sight.row

    def outcome(self, sight: Sight) -> Finished[O] | None:
        """The output, or None while the saga is not over. One that ended by `s.compensated` has an output, too.

        Raises SagaError for a saga that ended otherwise, and what `row` raises; but a saga that is not there yet is
        waited for.
        """
        if sight.row is None:
            self._check_refusals(sight)
            return None
        row = self.row(sight)
        if row.status not in ENDED:
            return None
        if row.status != "completed" and not (row.status == "compensated" and row.result is not None):
            raise SagaError(row.error_code or row.status, row.error_message or "", status=row.status)
        output = None if row.result is None else self.converter.from_bytes(row.result, self.output_type)
        return Finished(output=output)  # type: ignore[arg-type]

    def check_receives(self, sight: Sight, signal: str) -> None:
        """Raise NotAllowed for a signal to a saga whose code is over."""
        row = sight.row
        if row is not None and row.status != "running":
            raise NotAllowed(f"saga {self.id!r} is {row.status}: nobody receives the signal {signal!r} any more")

    def attribute(self, sight: Sight, attribute: Attribute[T]) -> T | None:
        """The attribute's value, None where the saga has not set it. Raises what `row` raises, and InvalidPayload."""
        values = self.row(sight).attributes
        if attribute.name not in values:
            return None
        return self.converter.from_bytes(msgspec.json.encode(values[attribute.name]), attribute.type)

    def late(self, sight: Sight | None, timeout: timedelta) -> TimeoutError:
        """Says where the saga is instead of at its end."""
        row = None if sight is None else sight.row
        if row is None:
            where = "it is not there yet; does its coordinator run, and has it this saga type?"
        else:
            needs = "" if row.attention == "none" else f" and needs a person ({row.attention})"
            where = f"it is {row.status}{needs}, waiting for {row.waiting_for or 'its next step'}"
        return TimeoutError(f"saga {self.id!r} has not ended within {timeout}: {where}")

    def _check_same(self, row: SagaDescription) -> None:
        if self.definition is not None and row.definition != self.definition:
            message = f"saga {self.id!r} is a {row.definition!r}, not a {self.definition!r}"
            raise NotFound(message) if self.started is None else StartConflict(message)
        if self.started is not None and row.coordinator not in (self.started.coordinator, ""):
            raise StartConflict(
                f"saga {self.id!r} is one of coordinator {row.coordinator!r}, not of {self.started.coordinator!r}; "
                "they share a database, in which ids are unique"
            )
        if self.started is not None and not self._same_input(row, self.started.input):
            raise StartConflict(f"saga {self.id!r} was started with another input")

    def _same_input(self, row: SagaDescription, mine: bytes) -> bool:
        return self.converter.same(row.input, mine, self.input_type)

    def _check_refusals(self, sight: Sight) -> None:
        for refusal in sight.refusals:
            if self.started is None or refusal.request_id == self.started.request_id:
                raise _error_of(self.id, refusal)


class Wait:
    """When to look again: ever later, until the time is up. The caller brings the time (monotonic seconds)."""

    def __init__(self, now: float, timeout: timedelta | None) -> None:
        if timeout is not None:
            check_wait("timeout", timeout)
        self._until = None if timeout is None else now + timeout.total_seconds()
        self._pause = FIRST_PAUSE
        self._failing_since: float | None = None

    def pause(self, now: float) -> float | None:
        """Seconds until the next look; None once the time is up."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        if self._until is None:
            return pause
        return min(pause, self._until - now) if now < self._until else None

    def answered(self) -> None:
        """The database answered."""
        self._failing_since = None

    def failed(self, now: float, error: StoreUnavailable) -> None:
        """The database did not answer: raises `error` if that has gone on for too long."""
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since >= PATIENCE:
            raise error


def subject_of(
    definition: SagaDefinition[Any, O] | str, id: str, converter: Converter, started: Started | None = None
) -> Subject[O]:
    """What a handle is about; of a saga known by the name of its type alone the output is plain JSON."""
    if isinstance(definition, str):
        return Subject(
            id=id, definition=definition, input_type=Any, output_type=Any, converter=converter, started=started
        )
    return Subject(
        id=id,
        definition=definition.name,
        input_type=definition.input_type,
        output_type=definition.output_type,
        converter=converter,
        started=started,
    )


def _error_of(saga_id: str, refusal: Refusal) -> SegueError:
    kinds: dict[str, type[SegueError]] = {
        "start_conflict": StartConflict,
        "unknown_saga_type": NotFound,
        "invalid_input": InvalidPayload,
    }
    message = f"the start of saga {saga_id!r} is a dead letter ({refusal.reason}): {refusal.message}"
    return kinds.get(refusal.reason, InputError)(message)
