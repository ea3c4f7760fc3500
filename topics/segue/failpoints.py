"""Named places at which a fault test makes this process die, freeze or fail. Free when off.

`SEGUE_FAILPOINTS="batch.after_commit=kill@3;relay.after_send=stop@1"` kills the process with SIGKILL at the third hit
of the one and freezes it with SIGSTOP at the first hit of the other; `raise` raises Unavailable. The names are a tested
list.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from segue.errors import ConfigError, Unavailable

VARIABLE: Final = "SEGUE_FAILPOINTS"

#: Every place there is, and what has happened by then.
POINTS: Final[Mapping[str, str]] = {
    "batch.begun": "the coordinator's transaction is open, nothing is written",
    "batch.moved": "the sagas of a batch of records are locked and have moved, nothing is written",
    "batch.before_commit": "the coordinator has written everything and not committed",
    "batch.after_commit": "committed; nothing published, no instance cached",
    "publish.after_send": "the messages of a batch are with the producer, not yet acknowledged",
    "publish.before_forget": "acknowledged; the batches are still in the database",
    "publish.after_forget": "the batches are deleted",
    "wake.before_commit": "due sagas have moved, not committed",
    "worker.before_commit": "effect, inbox row and reply are written, not committed",
    "worker.after_commit": "committed; the reply is not sent",
    "worker.after_send": "the reply is with the producer, not yet acknowledged",
    "worker.before_offsets": "handled and answered; Kafka's offset is not committed",
    "relay.before_unpack": "a relay has made rows of the outbox of batches that nobody published, not committed",
    "relay.after_load": "rows are loaded, nothing is sent",
    "relay.after_send": "rows are with the producer, not yet acknowledged",
    "relay.before_delete": "acknowledged; the rows are still there",
}
_ACTIONS = ("kill", "stop", "raise")


@dataclass(slots=True)
class _Plan:
    action: str
    at: int
    hits: int = 0


def parse(text: str) -> dict[str, _Plan]:
    """The plan in `text`. Raises ConfigError naming the part that is wrong."""
    plans: dict[str, _Plan] = {}
    for part in filter(None, text.split(";")):
        name, _, rest = part.partition("=")
        action, _, at = rest.partition("@")
        if name not in POINTS:
            raise ConfigError(f"{VARIABLE}: there is no failpoint {name!r}; there are {', '.join(POINTS)}")
        if action not in _ACTIONS or not (at or "1").isdigit():
            raise ConfigError(f"{VARIABLE}: {part!r}, expected NAME=kill|stop|raise@N")
        plans[name] = _Plan(action, int(at or 1))
    return plans


_plans = parse(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Tell that a place is reached. Does nothing unless a plan names it."""
    if _plans and name in _plans:
        _act(_plans[name], name)


def _act(plan: _Plan, name: str) -> None:
    plan.hits += 1
    if plan.hits != plan.at:
        return
    if plan.action == "raise":
        raise Unavailable(f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if plan.action == "kill" else signal.SIGSTOP)
