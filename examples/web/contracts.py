"""What the web application and the services have agreed on."""

from __future__ import annotations

from dataclasses import dataclass

from segue.contract import Activity, Signal


@dataclass(frozen=True)
class Order:
    """What somebody wants to have."""

    id: str
    account: str
    cents: int


@dataclass(frozen=True)
class Decision:
    """What a person said of an order."""

    approved: bool
    by: str


charge = Activity("payments.charge", Order)
refund = charge.undo("payments.refund")
decision = Signal("decision", Decision)
