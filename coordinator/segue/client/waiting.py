"""How long a caller may want to wait."""

from __future__ import annotations

from datetime import timedelta

from segue.errors import UsageError
from segue.saga.retry import LONGEST


def check_wait(what: str, timeout: timedelta) -> None:
    """Raise UsageError for what is no time to wait for; none at all is one."""
    if not isinstance(timeout, timedelta):
        raise UsageError(f"{what}={timeout!r}, it must be a timedelta: seconds(10), minutes(5)")
    if not timedelta(0) <= timeout <= LONGEST:
        raise UsageError(f"{what}={timeout}, allowed is 0 to {LONGEST.days:,} days (1,000 years)")
