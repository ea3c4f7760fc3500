"""Retry policies: pure arithmetic over attempts; the jitter is derived from the command, not drawn."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

import msgspec

from segue.errors import ContractError

_ZERO = timedelta(0)
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
#: The longest time that anything may wait: its end is a moment that a database and a calendar can hold.
LONGEST = timedelta(days=365_250)
#: No wait grows faster: the next one would be beyond any `maximum`.
GREATEST_FACTOR = 1_000.0
#: What a call and an undo may take where nothing else is said, in microseconds.
STEP_TIMEOUT, COMPENSATION_TIMEOUT = 300_000_000, 1_800_000_000
# msgspec leaves a default out only where the value is the very same object.
_USUAL = {value: value for value in (STEP_TIMEOUT, COMPENSATION_TIMEOUT)}
#: No silence before a re-send grows beyond this, unless the policy's first one is longer.
_LONGEST_SILENCE = timedelta(minutes=1)


class Retry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often and how fast a step is tried again; `attempts=3` means three in total."""

    #: Tries in total, the first included.
    attempts: int = 5
    #: Wait before the second try.
    initial: timedelta = _SECOND
    #: Each wait is this many times the one before.
    factor: float = 2.0
    #: No wait is longer.
    maximum: timedelta = timedelta(minutes=1)
    #: Part of the wait by which it varies, up and down.
    jitter: float = 0.1
    #: No new try once this much time has gone since the first; None: only the step's timeout bounds it.
    budget: timedelta | None = None
    #: Error codes that end the step at the first try.
    non_retryable: tuple[str, ...] = ()
    #: Silence after which the same command is sent again (the participant answers with its stored reply).
    silence: timedelta = timedelta(seconds=10)
    #: Longest time of one attempt, whatever signs of life it gives: then the next one begins. None: the step's time.
    attempt_timeout: timedelta | None = None

    def __post_init__(self) -> None:
        # No sentence is written for a policy that is right: every replay of a history makes one for each step.
        if not 1 <= self.attempts <= 10_000:
            raise ContractError(f"Retry: attempts={self.attempts}, allowed are 1 to 10,000")
        if self.initial < _ZERO:
            raise ContractError(f"Retry: initial={self.initial}, it can't be negative")
        if not self.factor >= 1:  # nor is it one that is no number
            raise ContractError(f"Retry: factor={self.factor}, allowed is 1 or more")
        if self.maximum < self.initial:
            raise ContractError(f"Retry: maximum={self.maximum} is less than initial={self.initial}")
        if not 0 <= self.jitter <= 1:
            raise ContractError(f"Retry: jitter={self.jitter}, allowed is 0 to 1")
        if self.silence <= _ZERO:
            raise ContractError(f"Retry: silence={self.silence}, it must be positive")
        if self.attempt_timeout is not None and self.attempt_timeout <= _ZERO:
            raise ContractError(f"Retry: attempt_timeout={self.attempt_timeout}, it must be positive")


DEFAULT_RETRY = Retry()
#: Compensations are stubborn: an undo that gives up needs a person.
DEFAULT_COMPENSATION_RETRY = Retry(attempts=10, maximum=timedelta(minutes=1))


def retry_delay(policy: Retry, attempt: int, command_id: str, retry_after: float | None) -> int:
    """Microseconds to wait after try number `attempt` was answered `retry`; the participant's own wish wins."""
    if retry_after is not None:
        return int(retry_after * 1_000_000)
    base = _grown(policy.initial, policy.factor, attempt - 1, policy.maximum)
    return int(base * (1 + policy.jitter * _unit(command_id)))


def resend_delay(policy: Retry, resends: int, heartbeat: int = 0) -> int:
    """Microseconds of silence before the same command is sent for the (`resends` + 2)th time.

    `heartbeat`: the step's own time of silence, if it has one.
    """
    silence = timedelta(microseconds=heartbeat) if heartbeat else policy.silence
    if resends == 0:
        return silence // _MICROSECOND
    return int(_grown(silence, 2.0, resends, max(silence, _LONGEST_SILENCE)))


def attempt_due(policy: Retry, sent: int) -> int | None:
    """When an attempt that was sent at `sent` has taken too long; None: it may take as long as its step."""
    return None if policy.attempt_timeout is None else sent + policy.attempt_timeout // _MICROSECOND


def may_retry(policy: Retry, attempt: int, code: str, first_sent: int, now: int) -> bool:
    """Whether another try is allowed after `attempt` tries; times in microseconds."""
    if attempt >= policy.attempts or code in policy.non_retryable:
        return False
    return policy.budget is None or now - first_sent < micros(policy.budget)


def check_duration(what: str, duration: timedelta) -> None:
    """Raise ContractError for a time that is not positive, or so long that no clock will show its end."""
    if not isinstance(duration, timedelta):
        raise ContractError(f"{what}={duration!r}, it must be a timedelta: minutes(5), hours(1)")
    if duration <= _ZERO:
        raise ContractError(f"{what}={duration}, it must be positive")
    if duration > LONGEST:
        raise ContractError(f"{what}={duration}, the longest is {LONGEST.days:,} days (1,000 years)")


@lru_cache(maxsize=1024)
def check_policy(what: str, policy: Retry) -> None:
    """Raise ContractError for a policy with a time that no clock will show, or a factor beyond all use.

    Not checked when a policy is made: those in histories were taken before, and must be read.
    """
    for name in ("initial", "maximum", "budget", "silence", "attempt_timeout"):
        duration = getattr(policy, name)
        if duration is not None and duration > LONGEST:
            raise ContractError(f"{what}: {name}={duration}, the longest is {LONGEST.days:,} days (1,000 years)")
    if policy.factor > GREATEST_FACTOR:
        raise ContractError(f"{what}: factor={policy.factor:g}, the greatest is {GREATEST_FACTOR:g}")


def micros(duration: timedelta) -> int:
    """Whole microseconds of a duration."""
    value = duration // _MICROSECOND
    return _USUAL.get(value, value)


def _grown(initial: timedelta, factor: float, times: int, maximum: timedelta) -> float:
    limit = micros(maximum)
    grown = float(micros(initial))
    for _ in range(min(times, 64)):
        grown *= factor
        if grown >= limit:
            return float(limit)
    return min(grown, float(limit))


def _unit(command_id: str) -> float:
    """A number in [-1, 1) that depends on the command alone."""
    return int(command_id[:8], 16) / 2**31 - 1
