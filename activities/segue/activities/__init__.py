"""Services: a worker that answers commands, each in one transaction with its effect and its reply.

worker = Worker("payments", sessions=SessionLocal)

@worker.handle(charge)
def charge_order(ctx: Context[Session], order: Order) -> Charged: ...
"""

from segue.activities.context import Context
from segue.activities.later import reject, reply
from segue.activities.loop import CommandLoop, LoopOptions
from segue.activities.outcome import Rejected, ReplyLater, RetryLater
from segue.activities.worker import Worker, WorkerOptions
from segue.contract import Activity, Attribute, Signal, Undo, days, hours, minutes, seconds

__all__ = [
    "Activity",
    "Attribute",
    "CommandLoop",
    "Context",
    "LoopOptions",
    "Rejected",
    "ReplyLater",
    "RetryLater",
    "Signal",
    "Undo",
    "Worker",
    "WorkerOptions",
    "days",
    "hours",
    "minutes",
    "reject",
    "reply",
    "seconds",
]
