"""Accounts and transfers, the same for the same seed, and what must become of each transfer.

An account has either enough for every transfer or nothing, so the outcome does not hang on which of two came first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from examples.transfer.contracts import BANKS, Side, Transfer

ACCOUNTS_OF_A_BANK = 20
#: Cents: more than all transfers together can take from one account.
PLENTY = 100_000_000
MOST_TRANSFERS = 5_000
#: Tries of a step that names no policy of its own; an outage is over before they are spent.
MOST_OUTAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An account before the first transfer. The last one of each bank is closed, the one before it empty."""

    account: str
    balance: int
    closed: bool


def openings(bank: str) -> list[Opening]:
    """The accounts of one bank."""
    last = ACCOUNTS_OF_A_BANK
    return [
        Opening(account=f"{bank}-{n:02}", balance=0 if n == last - 1 else PLENTY, closed=n == last)
        for n in range(1, last + 1)
    ]


def transfers(count: int, seed: int = 1) -> list[Transfer]:
    """`count` transfers; most have one payee at another bank, some have one at each."""
    random = Random(seed)
    return [_transfer(random, number) for number in range(1, count + 1)]


def expected_statuses(wanted: Iterable[Transfer]) -> dict[str, str]:
    """The status in which each transfer's saga ends."""
    accounts = {one.account: one for bank in BANKS for one in openings(bank)}

    def expected(transfer: Transfer) -> str:
        if accounts[transfer.payer.account].balance < transfer.payer.amount:
            return "failed"
        return "compensated" if any(accounts[payee.account].closed for payee in transfer.payees) else "completed"

    return {transfer.id: expected(transfer) for transfer in wanted}


def _transfer(random: Random, number: int) -> Transfer:
    payer_bank, *others = random.sample(BANKS, len(BANKS))
    payees = tuple(_payee(random, bank) for bank in others[: random.choice((1, 2))])
    # Payers are never closed accounts: those only ever get money.
    account = f"{payer_bank}-{random.randrange(1, ACCOUNTS_OF_A_BANK):02}"
    payer = Side(bank=payer_bank, account=account, amount=sum(payee.amount for payee in payees))
    return Transfer(id=f"transfer-{number:05}", payer=payer, payees=payees)


def _payee(random: Random, bank: str) -> Side:
    outages = random.randrange(1, MOST_OUTAGES + 1) if random.randrange(100) < 5 else 0
    account = f"{bank}-{random.randrange(1, ACCOUNTS_OF_A_BANK + 1):02}"
    # No deposit may fill an empty account: what a payer can pay must not hang on the order of transfers.
    if account.endswith(f"-{ACCOUNTS_OF_A_BANK - 1:02}"):
        account = f"{bank}-01"
    return Side(bank=bank, account=account, amount=random.randrange(1, 10_000), outages=outages)
