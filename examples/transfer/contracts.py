"""What the transfer saga and the three banks agree on; amounts are in cents."""

from __future__ import annotations

from dataclasses import dataclass

from segue.contract import Activity

BANKS = ("bank_a", "bank_b", "bank_c")


@dataclass(frozen=True)
class Side:
    """An account at a bank, and its part of the money. `outages`: so many attempts at this bank fail."""

    bank: str
    account: str
    amount: int
    outages: int = 0


@dataclass(frozen=True)
class Transfer:
    """One payer, one payee or several: what the payees get together is what the payer pays."""

    id: str
    payer: Side
    payees: tuple[Side, ...]


@dataclass(frozen=True)
class Posting:
    """What one bank is told: only its own part."""

    transfer_id: str
    account: str
    amount: int
    outages: int = 0


class Bank:
    """The activities of one bank: all banks can do the same."""

    def __init__(self, name: str) -> None:
        self.hold = Activity(f"{name}.hold", Posting)
        self.release = self.hold.undo(f"{name}.release")
        self.deposit = Activity(f"{name}.deposit", Posting)
        self.take_back = self.deposit.undo(f"{name}.take_back")
        self.settle = Activity(f"{name}.settle", Posting)


banks = {name: Bank(name) for name in BANKS}
