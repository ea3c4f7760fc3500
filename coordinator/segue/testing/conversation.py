"""`given(saga, input).expect(command).reply(…)`: a saga's lines one by one, as in a play.

What is expected must have been sent already, in any order among commands that are out at the same time; if nothing at
all is out, time skips to whatever comes next (a retry, a timeout, the end of a sleep) until something is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast, overload

from segue.contract import Activity, Attribute, Signal
from segue.errors import InvalidPayload
from segue.saga.definition import SagaDefinition
from segue.saga.effects import SendCommand
from segue.saga.events import Failure
from segue.saga.inputs import Cancel, Input, ResolveStep, RetryStep, SignalArrived, SkipStep, Wake
from segue.saga.retry import micros
from segue.testing.answers import Answer, mismatch, negative, rejection, success
from segue.testing.contracts import AnyActivity, Contracts
from segue.testing.failures import SagaBlocked, SagaTestError
from segue.testing.outcome import Outcome, outcome_of
from segue.testing.virtual import VirtualSaga, describe_command, describe_failure, describe_reply, preview, raw
from segue.topics.converter import Converter

I = TypeVar("I")  # noqa: E741 - the field's own letters: input and output
O = TypeVar("O")  # noqa: E741
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class _Any:
    def __repr__(self) -> str:
        return "ANY"


_ANY: Final = _Any()


def given(definition: SagaDefinition[I, O], input: I, *, id: str = "saga-1") -> Given[I, O]:
    """A saga that has just started with this input. Raises InvalidPayload for an input of another type."""
    return Given(definition, input, id)


class Given(Generic[I, O]):
    """A saga in conversation with the test; every method returns the conversation, so that they can be chained."""

    def __init__(self, definition: SagaDefinition[I, O], input: I, id: str) -> None:
        self._saga = VirtualSaga(definition, Contracts(), saga_id=id)
        self._seen: dict[str, SendCommand] = {}
        self._open: list[SendCommand] = []
        self._receive(self._saga.begin(input))

    # --- what the saga says

    @overload
    def expect(self, activity: Activity[A, B]) -> Expectation[I, O, B]: ...
    @overload
    def expect(self, activity: Activity[A, B], input: A) -> Expectation[I, O, B]: ...
    def expect(self, activity: AnyActivity, input: Any = _ANY) -> Expectation[I, O, Any]:
        """The saga has commanded this activity (or compensation), with this input if one is given; answer it next."""
        command = self._command(activity)
        if input is not _ANY:
            self._compare(command, activity, input)
        return Expectation(activity, command, self._answer, self._saga.converter)

    def expect_all(self, *activities: AnyActivity) -> Given[I, O]:
        """Exactly these are out and unanswered at the same time; answer them with `expect` in any order."""
        if not self._open:
            self._command(activities[0])
        sent, expected = sorted(c.activity for c in self._open), sorted(activity.name for activity in activities)
        if sent != expected:
            self._fail(f"expected all of {', '.join(expected)} at the same time, {self._outstanding()}")
        return self

    def expect_compensation(self, *activities: AnyActivity) -> Given[I, O]:
        """The saga commands these compensations in this order; each is acknowledged."""
        for activity in activities:
            self.expect(activity).reply(None)
        return self

    def late(self, activity: Activity[A, B]) -> Expectation[I, O, B]:
        """Answer the newest command of this activity once more, or at last: duplicates, and answers after silence."""
        commands = [command for command in self._seen.values() if command.activity == activity.name]
        if not commands:
            self._fail(f"{activity.name} was never commanded, so nothing can answer late")
        return Expectation(activity, commands[-1], self._answer, self._saga.converter)

    # --- what else happens

    def signal(self, signal: Signal[T], value: T) -> Given[I, O]:
        """A signal arrives."""
        data = self._saga.converter.to_bytes(value, signal.type)
        arrived = SignalArrived(name=signal.name, payload=raw(data))
        return self._happen(arrived, f"→ signal {signal.name} {preview(data)}")

    def cancel(self, compensate: str = "all", reason: str = "cancelled by the test") -> Given[I, O]:
        """A person cancels the saga; `compensate` is all, none, or `to:STEP`."""
        return self._happen(Cancel(compensate=compensate, reason=reason), f"→ cancel, compensate={compensate}")

    def retry_step(self, step: str | None = None) -> Given[I, O]:
        """A person tries again what is parked, in doubt or deferred (all of it, or one step)."""
        return self._happen(RetryStep(step=step), f"→ a person retries {step or 'all'}")

    def skip_step(self, step: str | AnyActivity, reason: str = "skipped by the test") -> Given[I, O]:
        """A person goes on without a parked step, or leaves a deferred compensation undone."""
        name = step if isinstance(step, str) else step.name
        return self._happen(SkipStep(step=name, reason=reason), f"→ a person skips {name}")

    def resolve_step(
        self,
        step: str | Activity[A, B],
        outcome: Literal["success", "failure"],
        output: B | None = None,
        reason: str = "resolved by the test",
    ) -> Given[I, O]:
        """A person knows what became of a step: it happened (with this output) or it did not."""
        name = step if isinstance(step, str) else step.name
        kind = None if isinstance(step, str) or output is None else step.output
        body = raw(self._saga.converter.to_bytes(output, kind))
        request = ResolveStep(step=name, outcome=outcome, output=body, reason=reason)
        return self._happen(request, f"→ a person resolves {name} as {outcome}")

    def wait(self, duration: timedelta) -> Given[I, O]:
        """Let time pass; commands that are out stay unanswered."""
        saga = self._saga
        until = saga.now + micros(duration)
        while saga.wake_at is not None and saga.wake_at <= until and not saga.state.ended:
            self._wake()
        saga.now = max(saga.now, until)
        return self

    # --- where it stands

    def expect_completed(self, result: O | _Any = _ANY) -> Given[I, O]:
        """It has completed, with this result if one is given."""
        self._expect_end("completed")
        if result is not _ANY and self.outcome.result != result:
            self._fail(f"expected the result {result!r}, it is {self.outcome.result!r}")
        return self

    def expect_compensated(self, code: str | None = None) -> Given[I, O]:
        """It has failed (with this code if one is given), and everything that was done is undone."""
        return self._expect_end("compensated", code)

    def expect_failed(self, code: str | None = None) -> Given[I, O]:
        """It has failed, and there was nothing to undo, or not all of it could be undone."""
        return self._expect_end("failed", code)

    def expect_cancelled(self) -> Given[I, O]:
        """It has been cancelled, and what was to be undone is undone."""
        return self._expect_end("cancelled")

    def expect_parked(self, step: str | AnyActivity | None = None) -> Given[I, O]:
        """A spent step (or a failure after the pivot) waits for a person."""
        return self._expect_attention("parked", step)

    def expect_in_doubt(self, step: str | AnyActivity | None = None) -> Given[I, O]:
        """Nobody knows whether a step happened, and it is not undone by itself: a late answer or a person decides."""
        return self._expect_attention("in_doubt", step)

    def expect_deferred(self, step: str | AnyActivity | None = None) -> Given[I, O]:
        """A compensation (named by its step or by itself) is spent and waits for a person."""
        return self._expect_attention("deferred", step)

    def expect_blocked(self, code: str | None = None) -> Given[I, O]:
        """The saga's code failed with something that undoes nothing; `code` is the exception's class."""
        failure = self._saga.state.blocked
        if failure is None or (code is not None and failure.code != code):
            self._fail(f"expected a saga that is blocked{f' by {code}' if code else ''}")
        return self

    def expect_receiving(self, signal: Signal[Any]) -> Given[I, O]:
        """Nothing is out, and the saga waits for this signal."""
        while signal.name not in self._saga.state.receives.values():
            self._skip(f"expected that it waits for signal {signal.name}")
        return self

    def expect_attribute(self, attribute: Attribute[T], value: T) -> Given[I, O]:
        """The saga has set this attribute to this value."""
        if (found := self._saga.attribute(attribute)) != value:
            self._fail(f"expected {attribute.name}={value!r}, it is {found!r}")
        return self

    @property
    def outcome(self) -> Outcome[O]:
        """Where it stands, with everything that `SagaTest.run` tells, too."""
        return cast("Outcome[O]", outcome_of(self._saga))

    # --- inside

    def _command(self, activity: AnyActivity) -> SendCommand:
        while True:
            for command in self._open:
                if command.activity == activity.name:
                    return command
            self._skip(f"expected {activity.name}")

    def _skip(self, expected: str) -> None:
        """Let time pass until something happens, if that can still fulfil what is expected."""
        state = self._saga.state
        if state.blocked is not None:
            raise SagaBlocked(f"{expected}, but the saga's code failed" + self._saga.story())
        if self._open or state.ended or self._saga.wake_at is None:
            self._fail(f"{expected}, {self._outstanding()}")
        self._wake()

    def _wake(self) -> None:
        saga = self._saga
        assert saga.wake_at is not None
        saga.now = max(saga.now, saga.wake_at)
        self._receive(saga.happen(Wake(gate=saga.now)))

    def _happen(self, happened: Input, told: str) -> Given[I, O]:
        self._saga.say(told)
        ignored = len(self._saga.ignored)
        self._receive(self._saga.happen(happened))
        if len(self._saga.ignored) > ignored:
            self._saga.say(f"! no effect: {self._saga.ignored[-1].detail}")
        return self

    def _receive(self, commands: list[SendCommand]) -> None:
        for command in commands:
            if command.id not in self._seen:  # or else it is sent again, after silence
                self._saga.say(f"→ {describe_command(command)}")
                self._seen[command.id] = command
                self._open.append(command)

    def _answer(self, command: SendCommand, answer: Answer, after: timedelta) -> Given[I, O]:
        if after:
            self.wait(after)
        if answer.outcome != "pending" and command in self._open:
            self._open.remove(command)
        reply = answer.reply_to(command)
        if reply is None:
            self._saga.say(f"← {command.activity} is silent")
            return self
        return self._happen(reply, describe_reply(command, reply))

    def _compare(self, command: SendCommand, activity: AnyActivity, input: Any) -> None:
        try:
            expected = self._saga.converter.to_bytes(input, activity.input)
        except InvalidPayload as error:
            raise SagaTestError(f"{activity.name} never gets {input!r:.120}: {error}") from error
        if expected != command.body:
            self._fail(f"expected {activity.name} with {preview(expected, 600)}, it got {preview(command.body, 600)}")

    def _expect_end(self, status: str, code: str | None = None) -> Given[I, O]:
        while not self._saga.state.ended:
            self._skip(f"expected that it has {'failed' if status == 'failed' else f'ended as {status}'}")
        if self._open:
            self._fail(f"it has ended, {self._outstanding()}")
        state = self._saga.state
        if state.status != status:
            self._fail(f"expected {status}, it is {state.status}")
        if code is not None:
            self._check_code(code, state.error)
        return self

    def _check_code(self, code: str, failure: Failure | None) -> None:
        if failure is None or failure.code != code:
            found = "there is no error" if failure is None else f"it is {describe_failure(failure)}"
            self._fail(f"expected the error {code}, {found}")

    def _expect_attention(self, attention: str, step: str | AnyActivity | None) -> Given[I, O]:
        name = step if isinstance(step, str) or step is None else step.name
        expected = f"expected that {name or 'it'} is {attention.replace('_', ' ')}"
        while True:
            state = self._saga.state
            names = [found for found, kind in state.troubled.items() if kind == attention]
            troubled = {found: state.steps[found].compensate for found in names}
            parked = attention == "parked" and state.parked is not None
            if (name is None and (troubled or parked)) or name in troubled or name in troubled.values():
                return self
            self._skip(expected)

    def _outstanding(self) -> str:
        if not self._open:
            return f"but no command is out, the saga is {self._saga.situation()}"
        return f"but unanswered are: {', '.join(describe_command(command) for command in self._open)}"

    def _fail(self, message: str) -> NoReturn:
        raise SagaTestError(message + self._saga.story())


class Expectation(Generic[I, O, B]):
    """A command that waits for the test's answer; each answer leads back to the conversation."""

    def __init__(
        self,
        activity: AnyActivity,
        command: SendCommand,
        answer: Callable[[SendCommand, Answer, timedelta], Given[I, O]],
        converter: Converter,
        after: timedelta = timedelta(0),
    ) -> None:
        self._activity = activity
        self._command = command
        self._answer = answer
        self._converter = converter
        self._after = after

    @property
    def attempt(self) -> int:
        """1 for the first try, 2 for the second."""
        return self._command.attempt

    def after(self, duration: timedelta) -> Expectation[I, O, B]:
        """The answer comes so much later."""
        return Expectation(self._activity, self._command, self._answer, self._converter, duration)

    def reply(self, output: B) -> Given[I, O]:
        """`success`, with this output."""
        return self._say(success(output, self._activity, self._converter))

    def reject(self, code: str, message: str = "", details: Any = None) -> Given[I, O]:
        """`failure`: nothing was done, and trying again is pointless."""
        return self._say(rejection(code, message, details))

    def retry(self, code: str, message: str = "", *, effect_unknown: bool = False) -> Given[I, O]:
        """`retry`: it failed for a reason that may pass; with `effect_unknown` it may have been done."""
        answer = negative("retry", code, message)
        return self._say(Answer(outcome="retry", code=code, body=answer.body, effect_unknown=effect_unknown))

    def pending(self, details: Any = None) -> Given[I, O]:
        """`pending`: accepted and under way; the command stays unanswered, and its deadline moves."""
        body = raw(self._converter.to_bytes(details))
        return self._say(Answer(outcome="pending", body=body))

    def mismatch(self) -> Given[I, O]:
        """The command comes to a worker that lacks the activity, as in a rolling deploy."""
        return self._say(mismatch(self._activity))

    def silence(self) -> Given[I, O]:
        """No answer, ever (unless `late` gives one): re-sends stay unanswered, too, until the step's time is over."""
        return self._say(Answer(outcome="silence"))

    def _say(self, answer: Answer) -> Given[I, O]:
        return self._answer(self._command, answer, self._after)
