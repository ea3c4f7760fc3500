"""What can go wrong between a saga and its participants, one fault at one point of a run.

A point is a command that is sent for the first time, a transition of the saga, or a signal that is due. Points are
numbered as a run reaches them; runs are deterministic, so a plan (point → fault) names one run exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from segue.errors import UsageError

PointKind = Literal["command", "undo", "transition", "start", "signal"]


class Fault(StrEnum):
    """A fault; the value is its name in reports."""

    # the participant
    REFUSED = "refused"
    RETRIED = "answered retry once"
    RETRIED_ALWAYS = "answered retry until spent"
    EFFECT_UNKNOWN = "done, but answered 'effect unknown' each time"
    PENDING = "answered pending first"
    PENDING_ONLY = "done, but answered pending, and then never again"
    MISMATCHED = "came twice to workers that lack it"
    # the command on its way
    COMMAND_LOST = "command lost once"
    COMMAND_COPIED = "command four times"
    NEVER_ARRIVES = "command never arrives"
    UNDO_BEFORE_DO = "command arrives after its timeout"
    # the reply on its way
    REPLY_LOST = "reply lost once"
    REPLY_COPIED = "reply four times"
    REPLY_SLOW = "reply overtaken by others"
    NEVER_ANSWERS = "done, but the reply never arrives"
    LATE_SUCCESS = "reply arrives after the timeout"
    # the coordinator
    CRASH_BEFORE = "crash before the commit"
    CRASH_AFTER = "crash after the commit"
    CANCELLED = "cancelled by a person then"
    # signals
    SIGNAL_NEVER = "signal never comes"
    SIGNAL_TWICE = "signal twice"


#: Faults of one delivery; all others of a command hold for every attempt and every re-send of that step from there on.
ONCE = frozenset(
    (
        Fault.RETRIED,
        Fault.PENDING,
        Fault.COMMAND_LOST,
        Fault.COMMAND_COPIED,
        Fault.REPLY_LOST,
        Fault.REPLY_COPIED,
        Fault.REPLY_SLOW,
    )
)
#: Faults that nobody may notice: the saga ends as it does without them.
TRANSPARENT = frozenset((Fault.CRASH_BEFORE, Fault.COMMAND_COPIED, Fault.REPLY_COPIED))

_COORDINATOR = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CANCELLED)
_COMMAND = tuple(fault for fault in Fault if fault not in (*_COORDINATOR, Fault.SIGNAL_NEVER, Fault.SIGNAL_TWICE))
_UNDO = tuple(
    fault
    for fault in _COMMAND
    # A compensation has no deadline after which it could be late, and its effect is only asked for. One that stays
    # pending a person asks for once more, and it is for its handler to know what it has begun already.
    if fault not in (Fault.UNDO_BEFORE_DO, Fault.LATE_SUCCESS, Fault.EFFECT_UNKNOWN, Fault.PENDING_ONLY)
)
FAULTS_AT: dict[PointKind, tuple[Fault, ...]] = {
    "command": _COMMAND,
    "undo": _UNDO,
    "transition": _COORDINATOR,
    "start": (Fault.CRASH_AFTER, Fault.CANCELLED),
    "signal": (Fault.SIGNAL_NEVER, Fault.SIGNAL_TWICE),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a run at which something can go wrong: its number, and what it is about."""

    number: int
    kind: PointKind
    #: `payments.charge`, `undo of payments.charge`, `start`, `after payments.charge`, `signal decision`.
    subject: str

    @property
    def group(self) -> str:
        """The subject without index and number of the run: all items of a map, and all later runs, are one row."""
        return re.sub(r"@\d+", "@n", re.sub(r"\[\d+\]", "[i]", self.subject))


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault at one point."""

    point: Point
    fault: Fault

    def __str__(self) -> str:
        return f"{self.point.subject}: {self.fault}"


Plan = tuple[PlannedFault, ...]


def key_of(plan: Plan) -> str:
    """The plan as a short text that `explore(only=…)` takes: `3:reply_lost,7:refused`; `none` for no fault."""
    return ",".join(f"{planned.point.number}:{planned.fault.name.lower()}" for planned in plan) or "none"


def plan_of(key: str) -> Plan:
    """The inverse of `key_of`; subjects are not in it. Raises UsageError."""
    if key == "none":
        return ()
    planned = []
    for part in key.split(","):
        number, _, name = part.strip().partition(":")
        if not number.isdigit() or name.upper() not in Fault.__members__:
            raise UsageError(f"{part!r} is no planned fault; write it as '7:refused', as reports do")
        planned.append(PlannedFault(Point(int(number), "command", f"point {number}"), Fault[name.upper()]))
    return tuple(planned)
