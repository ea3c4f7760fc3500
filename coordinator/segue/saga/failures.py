"""The failures that saga code may raise and catch, and the one signal that it must not swallow.

SegueError
└── SagaError                 what `handle.result()` raises: the saga did not complete
    ├── SagaFailed                raised by saga code: stop and undo
    └── ActivityError             a step is spent: its retries, its time, or the participant refused
        ├── ActivityRejected          the participant refused (outcome `failure`): no effect
        └── ActivityTimeout           silence until the step's timeout: the outcome is unknown
BaseException
├── SagaStopped               the saga is being stopped; every further call raises it
└── ContinueAsNew             how `s.continue_as_new` leaves the saga's code
"""

from __future__ import annotations

from typing import Any

from segue.errors import SegueError


class SagaError(SegueError):
    """The saga did not complete; `failure_code` and `message` say why."""

    code = "saga_error"

    def __init__(self, code: str, message: str = "", *, status: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.failure_code = code
        self.message = message
        #: How the saga ended (`compensated`, `failed`, `cancelled`), where a client raises this; else empty.
        self.status = status


class SagaFailed(SagaError):
    """Raised by saga code to stop and undo: `raise SagaFailed("declined", f"by {answer.by}")`."""

    code = "saga_failed"


class ActivityError(SagaError):
    """A step is spent. Saga code may catch it and go another way; if it leaves the saga, the undo starts."""

    code = "activity_error"

    def __init__(self, code: str, message: str = "", *, step: str = "", details: Any = None, settled: int = 0) -> None:
        super().__init__(code, message)
        self.step = step
        self.details = details
        #: Order in which steps were settled; an exception group is recorded under its earliest one.
        self.settled = settled

    def __str__(self) -> str:
        return f"{self.step}: {self.failure_code}" + (f": {self.message}" if self.message else "")


class ActivityRejected(ActivityError):
    """The participant refused; it proved that nothing happened."""

    code = "activity_rejected"


class ActivityTimeout(ActivityError):
    """No answer within the step's timeout; whether it happened is unknown, so the undo includes it."""

    code = "activity_timeout"


class SagaStopped(BaseException):
    """The saga is being stopped; its code can't go on calling. Not an Exception: `except Exception` lets it pass."""


class ContinueAsNew(BaseException):
    """How `s.continue_as_new` leaves the saga's code. Not an Exception: `except Exception` lets it pass."""

    def __init__(self, input: bytes, deadline: int | None) -> None:
        super().__init__("continue_as_new has to leave the saga's function itself; a TaskGroup has caught it")
        self.input = input
        #: Microseconds since 1970; None: the deadline stays as it is.
        self.deadline = deadline


class Nondeterminism(SegueError):
    """The code asks for something else than the history holds; the saga is blocked until code that fits is deployed."""

    code = "nondeterminism"
