"""The proof: whatever was killed, delayed or delivered twice, no money came into being and none was lost.

`check` holds at any moment at which no transfer is under way; it needs the banks' databases and nothing else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from examples.database import engine_of
from examples.driver.violations import Violation
from examples.transfer.bank import Account, Hold, Movement
from examples.transfer.contracts import BANKS, Transfer
from examples.transfer.workload import expected_statuses

Row = TypeVar("Row", Account, Hold, Movement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The contents of one bank's database."""

    accounts: Sequence[Account]
    holds: Sequence[Hold]
    movements: Sequence[Movement]


def check(databases: Mapping[str, str]) -> list[Violation]:
    """What is not as it must be; `databases` has the URL of each bank's database under the bank's name."""
    books = {bank: _books(databases[bank]) for bank in BANKS}
    found = list(_check_sum(books.values()))
    for bank, book in books.items():
        found += _check_accounts(bank, book)
    return found + list(_check_transfers(books.values()))


def check_outcomes(transfers: Iterable[Transfer], statuses: Mapping[str, str]) -> list[Violation]:
    """Each transfer's saga ended as it had to."""
    return [
        Violation(rule=f"must be {wanted}", subject=name, found=statuses.get(name, "missing"))
        for name, wanted in expected_statuses(transfers).items()
        if statuses.get(name) != wanted
    ]


def _check_sum(books: Iterable[Books]) -> Iterator[Violation]:
    before = after = 0
    for book in books:
        before += sum(account.opening for account in book.accounts)
        after += sum(account.balance for account in book.accounts)
        after += sum(hold.amount for hold in book.holds if hold.state == "open")
    if before != after:
        yield Violation(rule="the sum is conserved", subject="all banks", found=f"{after - before:+} cents")


def _check_accounts(bank: str, book: Books) -> Iterator[Violation]:
    moved: Counter[str] = Counter()
    for movement in book.movements:
        moved[movement.account_id] += movement.amount
    for account in book.accounts:
        if account.balance != account.opening + moved[account.id]:
            text = f"{account.balance} cents; opened with {account.opening}, moved {moved[account.id]}"
            yield Violation(rule="balances are what was moved", subject=account.id, found=text)
        if account.closed and moved[account.id]:
            yield Violation(rule="a closed account stays as it is", subject=account.id, found=f"{moved[account.id]:+}")
    for hold in book.holds:
        if hold.state == "open":
            yield Violation(rule="no hold stays open", subject=hold.transfer_id, found=f"{hold.amount} at {bank}")


def _check_transfers(books: Iterable[Books]) -> Iterator[Violation]:
    holds: defaultdict[str, list[Hold]] = defaultdict(list)
    kinds: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    cents: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for book in books:
        for hold in book.holds:
            holds[hold.transfer_id].append(hold)
        for movement in book.movements:
            kinds[movement.transfer_id][movement.kind, movement.account_id] += 1
            cents[movement.transfer_id][movement.kind] += movement.amount
    for transfer_id, counts in kinds.items():
        if max(counts.values()) > 1:
            yield Violation(rule="nothing is done twice", subject=transfer_id, found=str(dict(counts)))
        found = holds[transfer_id]
        paid = cents[transfer_id]["deposit"] + cents[transfer_id]["take_back"]
        wanted = sum(hold.amount for hold in found if hold.state == "settled")
        if len(found) != 1 or paid != wanted:
            text = f"payees got {paid} cents, payers let go of {wanted}, holds: {len(found)}"
            yield Violation(rule="payees get what the payer lets go of", subject=transfer_id, found=text)


def _books(url: str) -> Books:
    return Books(accounts=_read(url, Account), holds=_read(url, Hold), movements=_read(url, Movement))


def _read(url: str, table: type[Row]) -> list[Row]:
    engine = engine_of(url)
    try:
        with Session(engine, expire_on_commit=False) as session:
            return list(session.scalars(select(table)))
    finally:
        engine.dispose()
