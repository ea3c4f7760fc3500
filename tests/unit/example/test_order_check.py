"""The demo's proof is only worth something if it finds what is wrong: every rule is broken here once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase

from examples.orders import mail, payments, shipping, stock
from examples.orders.check import check, check_outcomes
from examples.orders.expected import expected_statuses
from examples.orders.files import ACCOUNTS, ORDERS, STOCK, opening_balances, opening_stock, read_orders
from examples.orders.generate import generate
from examples.orders.world import OutOfReach, reach, refuses
from tests.unit.example.conftest import Fill

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None)
TABLES: dict[str, type[DeclarativeBase]] = {
    "payments": payments.Base,
    "stock": stock.Base,
    "shipping": shipping.Base,
    "mail": mail.Base,
}


def entry(amount: int, *, at: datetime = NOON) -> payments.Entry:
    return payments.Entry(order_id="o-1", account_id="ann", amount=amount, key="k", at=at)


def movement(units: int) -> stock.Movement:
    return stock.Movement(order_id="o-1", sku="harp", units=units)


def parcel(*, recalled: bool = False, at: datetime = NOON + timedelta(seconds=1)) -> shipping.Shipment:
    return shipping.Shipment(order_id="o-1", address="a", tracking="t", recalled=recalled, at=at)


def a_mail() -> mail.Mail:
    return mail.Mail(order_id="o-1", recipient="ann", text="on its way")


def rules(books: Fill, *rows: Any, balance: int | None = None, units: int | None = None) -> set[str]:
    """The rules that these rows break, in databases whose sums are right unless said otherwise."""
    cents = sum(row.amount for row in rows if isinstance(row, payments.Entry))
    moved = sum(row.units for row in rows if isinstance(row, stock.Movement))
    account = payments.Account(id="ann", opening=1000, balance=1000 + cents if balance is None else balance)
    item = stock.Item(sku="harp", opening=10, units=10 + moved if units is None else units)
    everything = [account, item, *rows]
    databases = {
        service: books(service, base, [row for row in everything if isinstance(row, base)])
        for service, base in TABLES.items()
    }
    return {violation.rule for violation in check(databases)}


def test_a_paid_and_shipped_order_breaks_no_rule(books: Fill) -> None:
    assert rules(books, entry(-500), movement(-1), parcel(), a_mail()) == set()


def test_a_refunded_and_released_order_breaks_no_rule(books: Fill) -> None:
    assert rules(books, entry(-500), movement(-1), movement(1), entry(500, at=NOON + timedelta(seconds=1))) == set()


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("paid twice", lambda: [entry(-500), entry(-500)]),
        ("refunded without payment", lambda: [entry(500)]),
        ("refunded without payment", lambda: [entry(-300), entry(500)]),
        ("refunded without payment", lambda: [entry(-500), entry(500, at=NOON - timedelta(seconds=1))]),
        ("shipped unpaid", lambda: [movement(-1), parcel()]),
        ("shipped unpaid", lambda: [entry(-500), movement(-1), parcel(at=NOON - timedelta(seconds=1))]),
        ("shipped unpaid", lambda: [parcel(recalled=True)]),
        ("shipped and refunded", lambda: [entry(-500), entry(500), movement(-1), parcel()]),
        ("shipped twice", lambda: [entry(-500), movement(-1), parcel(), parcel()]),
        ("shipped without reservation", lambda: [entry(-500), parcel()]),
        ("shipped without reservation", lambda: [entry(-500), movement(-1), movement(1), parcel()]),
        ("reserved or released twice", lambda: [movement(-1), movement(-1)]),
        ("reserved or released twice", lambda: [movement(-1), movement(1), movement(1)]),
        ("confirmed twice, or without a parcel", lambda: [a_mail()]),
        ("confirmed twice, or without a parcel", lambda: [entry(-500), movement(-1), parcel(), a_mail(), a_mail()]),
    ],
)
def test_a_broken_promise_is_found(books: Fill, rule: str, rows: Any) -> None:
    assert rule in rules(books, *rows())


def test_a_cent_too_much_and_a_unit_too_few_are_found(books: Fill) -> None:
    broken = rules(books, entry(-500), movement(-1), parcel(), balance=501, units=8)
    assert broken == {"balance is not what the ledger says", "stock is not what the book says"}


def test_an_order_that_ended_otherwise_than_its_line_says_is_found(books: Fill) -> None:
    order = next(order for order in read_orders() if expected_statuses([order])[order.id] == "completed")
    databases = {service: books(service, base, []) for service, base in TABLES.items()}
    [found] = check_outcomes([order], {order.id: "compensated"}, databases)
    assert (found.rule, found.subject, found.found) == ("must be completed", order.id, "compensated")
    [found] = check_outcomes([order], {order.id: "completed"}, databases)
    assert found.rule == "completed means paid, reserved, shipped and confirmed once"
    [found] = check_outcomes([order], {}, databases)
    assert found.found == "missing"


def test_traces_of_an_order_that_nobody_placed_are_found(books: Fill) -> None:
    databases = {service: books(service, base, []) for service, base in TABLES.items()}
    databases["payments"] = books("other", payments.Base, [entry(-1)])
    assert [violation.subject for violation in check_outcomes([], {}, databases)] == ["o-1"]


def test_the_files_are_what_the_recorded_seed_makes() -> None:
    orders, balances, units = generate()
    assert read_orders() == orders
    assert dict(opening_balances()) == balances
    assert dict(opening_stock()) == units
    assert all(path.stat().st_size > 0 for path in (ORDERS, ACCOUNTS, STOCK))
    assert len(orders) == 3000


def test_every_account_can_pay_all_of_its_orders_or_none() -> None:
    balances = dict(opening_balances())
    spent: dict[str, Decimal] = {}
    for order in read_orders():
        if balances[order.account] >= order.total:
            spent[order.account] = spent.get(order.account, Decimal(0)) + order.total
    assert all(balances[account] >= total for account, total in spent.items())


def test_the_world_is_down_for_as_many_attempts_as_the_order_says() -> None:
    with pytest.raises(OutOfReach, match="carrier"):
        reach("carrier", "carrier:down=2", 2)
    reach("carrier", "carrier:down=2", 3)
    reach("bank", "carrier:down=2", 1)
    assert refuses("carrier", "bank:slow carrier:refuses")
    assert not refuses("carrier", "mailbox:refuses")
