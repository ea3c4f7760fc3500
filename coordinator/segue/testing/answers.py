"""What a mocked participant says: made from what a function returns or raises, as a worker would make it.

returned value                            success
segue.activities.Rejected                 failure: nothing was done
segue.saga.ActivityRejected               the same, for tests that need nothing else from the services
ActivityTimeout, SILENCE                  nothing at all, ever
RetryLater, ActivityError, any other      retry: nothing was done, the exception's class (or its code) is the code
ReplyLater                                pending

An AssertionError is the test's own and is let through.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import msgspec

from segue.errors import InvalidPayload
from segue.saga.definition import Converter
from segue.saga.effects import SendCommand
from segue.saga.events import NULL
from segue.saga.failures import ActivityError, ActivityRejected, ActivityTimeout
from segue.saga.inputs import Reply
from segue.testing.contracts import AnyActivity
from segue.testing.failures import SagaTestError


class Silence:
    """No answer at all."""

    def __repr__(self) -> str:
        return "SILENCE"


#: In `side_effects`: this attempt is never answered.
SILENCE: Final = Silence()


class Mismatch:
    """A worker that lacks the activity, as in a rolling deploy."""

    def __repr__(self) -> str:
        return "MISMATCH"


#: In `side_effects`: this attempt comes to a worker that lacks the activity.
MISMATCH: Final = Mismatch()


#: The code with which a worker says that it lacks the activity.
LACKING = "unknown_activity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a participant says to one command. `effect_unknown`: a negative answer that does not prove "no effect"."""

    outcome: Literal["success", "failure", "retry", "pending", "silence"]
    body: msgspec.Raw = field(default_factory=lambda: NULL)
    code: str = ""
    effect_unknown: bool = False
    retry_after: float | None = None
    #: The participant's build does not fit the command.
    mismatch: bool = False
    #: The business has said no, in whatever words; an `expired` of its own is not the protocol's.
    rejected: bool = False

    def reply_to(self, command: SendCommand) -> Reply | None:
        """The reply as the engine takes it; None for silence."""
        if self.outcome == "silence":
            return None
        return Reply(
            command_id=command.id,
            outcome=self.outcome,
            body=self.body,
            error=self.code,
            effect_unknown=self.effect_unknown,
            retry_after=self.retry_after,
            mismatch=self.mismatch,
            rejected=self.rejected,
        )


def success(output: Any, activity: AnyActivity, converter: Converter) -> Answer:
    """Raises SagaTestError for an output that is not of the activity's type."""
    if activity.output is None and output is not None:
        raise SagaTestError(f"{activity.name} answers with nothing, but the test gives it {output!r:.120}")
    try:
        body = converter.to_bytes(output, activity.output)
    except InvalidPayload as error:
        raise SagaTestError(f"{activity.name} can't answer {output!r:.120}: {error}") from error
    return Answer(outcome="success", body=msgspec.Raw(body))


def mismatch(activity: AnyActivity) -> Answer:
    """What a worker says that lacks the activity."""
    answer = negative("retry", LACKING, f"no handler for {activity.name!r}")
    return Answer(outcome="retry", code=answer.code, body=answer.body, mismatch=True)


def negative(outcome: Literal["failure", "retry"], code: str, message: str = "", details: Any = None) -> Answer:
    """`failure` or `retry`, with a body as on the wire."""
    body = msgspec.json.encode({"code": code, "message": message, "details": details}, enc_hook=str)
    return Answer(outcome=outcome, code=code, body=msgspec.Raw(body))


def rejection(code: str, message: str = "", details: Any = None) -> Answer:
    """The business says no."""
    return replace(negative("failure", code, message, details), rejected=True)


def answer_of_exception(error: BaseException) -> Answer:
    """The answer that a handler's exception becomes. Raises AssertionErrors again: they are the test's own."""
    match error:
        case AssertionError():
            raise error
        case ActivityTimeout():
            return Answer(outcome="silence")
        case ActivityRejected():
            return rejection(error.failure_code, error.message, error.details)
        case ActivityError():
            return negative("retry", error.failure_code, error.message, error.details)
        case _:
            return _answer_of_services(error) or negative("retry", type(error).__name__, str(error))


def _answer_of_services(error: BaseException) -> Answer | None:
    """For the exceptions of `segue.activities`; where nobody has imported it, none of them can have been raised."""
    if "segue.activities" not in sys.modules:
        return None
    from segue.activities import Rejected, ReplyLater, RetryLater

    match error:
        case Rejected():
            return rejection(error.code, error.message, error.details)
        case ReplyLater():
            return Answer(outcome="pending")
        case RetryLater():
            answer = negative("retry", error.code, str(error))
            return Answer(outcome="retry", code=answer.code, body=answer.body, retry_after=error.after.total_seconds())
        case _:
            return None


def call(function: Callable[[Any], Any], value: Any) -> Any:
    """Call a sync or async function and wait for what it returns, also where an event loop runs already."""
    returned = function(value)
    if not inspect.isawaitable(returned):
        return returned
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(returned))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _awaited(returned)).result()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
