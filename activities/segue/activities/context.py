"""What a handler is told besides its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from segue.topics.envelope import Command

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Generic[S]):
    """One command, as its handler sees it.

    `session` is in the transaction that also holds the fence and the reply: write with it, flush it, use savepoints,
    but do not commit it; the worker does. With `transaction="manual"` it is in no transaction and is yours to commit.
    """

    session: S
    command: Command
    #: Details of the last heartbeat of an earlier delivery of this command; None on the first.
    details: Any
    #: For `activities.reply` after a `ReplyLater`.
    token: str
    beat: Callable[[Any], None]

    @property
    def idempotency_key(self) -> str:
        """To be given to third parties: the same for all attempts, another one for the compensation."""
        return f"{self.command.key}/{self.command.action}"

    @property
    def saga_id(self) -> str:
        return self.command.saga_id

    @property
    def step(self) -> str:
        """The occurrence: `payments.charge`, `payments.charge#2`, `stock.reserve[17]`."""
        return self.command.step

    @property
    def attempt(self) -> int:
        """From 1."""
        return self.command.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the coordinator gives up waiting; UTC. A compensation may have one, too, but never expires."""
        return self.command.deadline

    def heartbeat(self, details: Any = None) -> None:
        """Say that work goes on: extends the deadline, and shows `details` (anything JSON can hold) to people.

        With `transaction="manual"` the details are kept, so that a delivery after a crash finds them in `details`.
        Cheap: call it as often as you like, about one in a second is sent. Never blocks, never raises for the network.
        """
        self.beat(details)
