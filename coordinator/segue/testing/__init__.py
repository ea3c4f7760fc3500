"""For tests of sagas: milliseconds each, no Kafka, no database.

`SagaTest` plays a saga with mocked activities on a virtual clock, `given` speaks its lines one by one, `explore` tries
every fault at every step, `replay` checks new code against recorded histories.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.testing.answers import MISMATCH, SILENCE
    from segue.testing.conversation import Given, given
    from segue.testing.explorer import explore
    from segue.testing.failures import NeverEnds, NondeterministicSaga, NotMocked, SagaBlocked, SagaTestError
    from segue.testing.handlers import Handlers
    from segue.testing.outcome import HistoryEvent, Outcome
    from segue.testing.recorded import export, replay
    from segue.testing.report import Case, Report, Violation
    from segue.testing.saga_test import SagaTest

__all__ = [
    "MISMATCH",
    "SILENCE",
    "Case",
    "Given",
    "Handlers",
    "HistoryEvent",
    "NeverEnds",
    "NondeterministicSaga",
    "NotMocked",
    "Outcome",
    "Report",
    "SagaBlocked",
    "SagaTest",
    "SagaTestError",
    "Violation",
    "explore",
    "export",
    "given",
    "replay",
]

#: Loaded on demand: pytest imports this package for its plugin in every run, also where no saga is tested.
_MODULES = {
    "MISMATCH": "answers",
    "SILENCE": "answers",
    "Given": "conversation",
    "given": "conversation",
    "explore": "explorer",
    "NeverEnds": "failures",
    "NondeterministicSaga": "failures",
    "NotMocked": "failures",
    "SagaBlocked": "failures",
    "SagaTestError": "failures",
    "Handlers": "handlers",
    "HistoryEvent": "outcome",
    "Outcome": "outcome",
    "export": "recorded",
    "replay": "recorded",
    "Case": "report",
    "Report": "report",
    "Violation": "report",
    "SagaTest": "saga_test",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"segue.testing.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
