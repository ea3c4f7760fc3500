"""Exit codes: a contract, documented in `docs/reference/cli.md`."""

from __future__ import annotations

from enum import IntEnum

from segue.errors import (
    ConfigError,
    InputError,
    InvalidId,
    NotFound,
    SegueError,
    StateError,
    Unavailable,
    UsageError,
)


class Exit(IntEnum):
    """What the process says to the shell."""

    OK = 0
    #: A problem was found, or the operation failed.
    PROBLEM = 1
    #: Wrong arguments or settings; nothing was done.
    USAGE = 2
    #: The database or Kafka cannot be reached; try again.
    UNAVAILABLE = 3
    #: No such saga, step, dead letter or topic.
    NOT_FOUND = 4
    #: It exists but is in a state in which this cannot be done, or a coordinator refused it.
    REFUSED = 5
    #: It was accepted, but was not done within the time given to wait; it may still happen.
    NOT_YET = 6
    #: Ctrl-C.
    INTERRUPTED = 130


class NotYet(SegueError):
    """Accepted, but not done within the time given to wait; it may still happen."""

    code = "not_yet"


class Problem(SegueError):
    """What was checked is not as it should be."""

    code = "problem"


_BY_CLASS: tuple[tuple[type[SegueError], Exit], ...] = (
    (NotYet, Exit.NOT_YET),
    (ConfigError, Exit.USAGE),
    (InvalidId, Exit.USAGE),
    (UsageError, Exit.USAGE),
    (InputError, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (StateError, Exit.REFUSED),
    (Unavailable, Exit.UNAVAILABLE),
)


def exit_of(error: SegueError) -> Exit:
    """The exit code of an error that ends a command."""
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    return Exit.PROBLEM
