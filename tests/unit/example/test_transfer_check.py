"""The transfers' proof finds money that came into being, that was lost, and that was moved twice."""

from __future__ import annotations

from typing import Any

from examples.transfer.bank import Account, Base, Hold, Movement
from examples.transfer.check import check, check_outcomes
from examples.transfer.contracts import BANKS
from examples.transfer.workload import expected_statuses, openings, transfers
from tests.unit.example.conftest import Fill


def account(bank: str, balance: int, *, closed: bool = False) -> Account:
    return Account(id=f"{bank}-01", opening=100, balance=balance, closed=closed)


def hold(bank: str, amount: int, state: str) -> Hold:
    return Hold(transfer_id="t-1", account_id=f"{bank}-01", amount=amount, state=state)


def moved(bank: str, amount: int, kind: str) -> Movement:
    return Movement(transfer_id="t-1", account_id=f"{bank}-01", amount=amount, kind=kind)


def rules(books: Fill, bank_a: list[Any], bank_b: list[Any]) -> set[str]:
    rows = {"bank_a": bank_a, "bank_b": bank_b, "bank_c": []}
    return {violation.rule for violation in check({bank: books(bank, Base, rows[bank]) for bank in BANKS})}


def test_a_settled_transfer_breaks_no_rule(books: Fill) -> None:
    payer = [account("bank_a", 70), hold("bank_a", 30, "settled"), moved("bank_a", -30, "hold")]
    payee = [account("bank_b", 130), moved("bank_b", 30, "deposit")]
    assert rules(books, payer, payee) == set()


def test_a_released_transfer_breaks_no_rule(books: Fill) -> None:
    payer = [account("bank_a", 100), hold("bank_a", 30, "released")]
    payer += [moved("bank_a", -30, "hold"), moved("bank_a", 30, "release")]
    payee = [account("bank_b", 100), moved("bank_b", 30, "deposit"), moved("bank_b", -30, "take_back")]
    assert rules(books, payer, payee) == set()


def test_an_open_hold_is_part_of_the_sum_and_still_a_violation(books: Fill) -> None:
    payer = [account("bank_a", 70), hold("bank_a", 30, "open"), moved("bank_a", -30, "hold")]
    assert rules(books, payer, [account("bank_b", 100)]) == {"no hold stays open"}


def test_money_that_was_lost_is_found(books: Fill) -> None:
    payer = [account("bank_a", 70), hold("bank_a", 30, "settled"), moved("bank_a", -30, "hold")]
    broken = rules(books, payer, [account("bank_b", 100)])
    assert broken == {"the sum is conserved", "payees get what the payer lets go of"}


def test_a_deposit_that_was_made_twice_is_found(books: Fill) -> None:
    payer = [account("bank_a", 70), hold("bank_a", 30, "settled"), moved("bank_a", -30, "hold")]
    payee = [account("bank_b", 160), moved("bank_b", 30, "deposit"), moved("bank_b", 30, "deposit")]
    assert rules(books, payer, payee) == {
        "the sum is conserved",
        "nothing is done twice",
        "payees get what the payer lets go of",
    }


def test_a_balance_that_nothing_explains_and_a_closed_account_that_moves_are_found(books: Fill) -> None:
    assert "balances are what was moved" in rules(books, [account("bank_a", 99)], [account("bank_b", 101)])


def test_a_closed_account_that_moves_is_found(books: Fill) -> None:
    payee = [account("bank_b", 130, closed=True), moved("bank_b", 30, "deposit")]
    assert "a closed account stays as it is" in rules(books, [account("bank_a", 70)], payee)


def test_a_transfer_that_ended_otherwise_is_found() -> None:
    wanted = transfers(20)
    expected = expected_statuses(wanted)
    assert check_outcomes(wanted, expected) == []
    [found] = check_outcomes(wanted, expected | {wanted[0].id: "running"})
    assert (found.subject, found.found) == (wanted[0].id, "running")


def test_the_same_seed_makes_the_same_transfers_of_every_kind() -> None:
    assert transfers(200, 7) == transfers(200, 7) != transfers(200, 8)
    assert set(expected_statuses(transfers(200)).values()) == {"completed", "compensated", "failed"}
    assert any(payee.outages for transfer in transfers(200) for payee in transfer.payees)
    assert all(sum(payee.amount for payee in t.payees) == t.payer.amount for t in transfers(200))


def test_no_account_can_be_emptied_by_all_transfers_together() -> None:
    rich = {one.account: one.balance for bank in BANKS for one in openings(bank) if one.balance}
    for transfer in transfers(5000):
        if transfer.payer.account in rich:
            rich[transfer.payer.account] -= transfer.payer.amount
    assert min(rich.values()) > 0
