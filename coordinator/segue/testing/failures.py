"""How a test of a saga fails. All are AssertionErrors, so that every test runner shows them as failed, not broken.

AssertionError
└── SagaTestError             the saga did something else than the test expects
    ├── NotMocked                 it called an activity of which the test says nothing
    ├── SagaBlocked               its code failed in a way that undoes nothing: a bug
    ├── NondeterministicSaga      told the same things again, its code asks for something else
    └── NeverEnds                 a limit on steps or time, so that a test never hangs
"""

from __future__ import annotations


class SagaTestError(AssertionError):
    """The saga did something else than the test expects; the message ends with the conversation so far."""


class NotMocked(SagaTestError):
    """The saga called an activity of which the test says nothing."""


class SagaBlocked(SagaTestError):
    """The saga's code failed with something that undoes nothing (a KeyError, a type that does not fit): a bug."""


class NondeterministicSaga(SagaTestError):
    """Told the same things again, the saga's code asks for something else."""


class NeverEnds(SagaTestError):
    """The saga was stopped by the limit on transitions or on virtual time."""
