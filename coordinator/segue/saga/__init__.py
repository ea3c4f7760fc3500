"""Sagas: `@saga`, the handle `Saga`, retry policies, and the contracts that sagas share with services.

The engine below is pure: `segue.saga.transition.advance` decides, `segue.saga.state.apply` folds, nothing does I/O.
"""

from segue.contract import Activity, Attribute, Signal, Undo, days, hours, minutes, seconds
from segue.saga.context import Saga
from segue.saga.definition import Registry, SagaDefinition, saga
from segue.saga.failures import (
    ActivityError,
    ActivityRejected,
    ActivityTimeout,
    SagaError,
    SagaFailed,
    SagaStopped,
)
from segue.saga.retry import Retry
from segue.saga.scope import Scope

__all__ = [
    "Activity",
    "ActivityError",
    "ActivityRejected",
    "ActivityTimeout",
    "Attribute",
    "Registry",
    "Retry",
    "Saga",
    "SagaDefinition",
    "SagaError",
    "SagaFailed",
    "SagaStopped",
    "Scope",
    "Signal",
    "Undo",
    "days",
    "hours",
    "minutes",
    "saga",
    "seconds",
]
