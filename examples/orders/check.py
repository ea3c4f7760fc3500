"""The proof: what the services' own databases say, compared with what was promised.

`check` needs nothing but the four databases: it holds at any moment at which no saga is under way, whatever was killed
before. `check_outcomes` compares them with what was expected of each order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from examples.database import engine_of
from examples.driver.violations import Violation
from examples.orders.contracts import Order
from examples.orders.expected import expected_statuses, mail_expected
from examples.orders.mail import Mail
from examples.orders.payments import Account, Entry
from examples.orders.shipping import Shipment
from examples.orders.stock import Item, Movement

Row = TypeVar("Row", Account, Entry, Item, Movement, Shipment, Mail)


@dataclass(slots=True)
class Traces:
    """All that one order has left in the four databases."""

    charges: list[Entry] = field(default_factory=list)
    refunds: list[Entry] = field(default_factory=list)
    taken: list[Movement] = field(default_factory=list)
    put_back: list[Movement] = field(default_factory=list)
    parcels: list[Shipment] = field(default_factory=list)
    recalled: list[Shipment] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)

    @property
    def as_text(self) -> str:
        """`1 charges, 1 refunds, …`, what there is none of left out."""
        names = ("charges", "refunds", "taken", "put_back", "parcels", "recalled", "mails")
        return ", ".join(f"{len(found)} {name}" for name in names if (found := getattr(self, name))) or "no trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The contents of the four databases."""

    accounts: Sequence[Account]
    entries: Sequence[Entry]
    items: Sequence[Item]
    movements: Sequence[Movement]
    orders: Mapping[str, Traces]


def read_books(databases: Mapping[str, str]) -> Books:
    """Read it all; `databases` has the URLs of `payments`, `stock`, `shipping` and `mail`."""
    orders: defaultdict[str, Traces] = defaultdict(Traces)
    accounts, entries = _read(databases["payments"], Account), _read(databases["payments"], Entry)
    for entry in entries:
        (orders[entry.order_id].charges if entry.amount < 0 else orders[entry.order_id].refunds).append(entry)
    items, movements = _read(databases["stock"], Item), _read(databases["stock"], Movement)
    for movement in movements:
        (orders[movement.order_id].taken if movement.units < 0 else orders[movement.order_id].put_back).append(movement)
    for parcel in _read(databases["shipping"], Shipment):
        (orders[parcel.order_id].recalled if parcel.recalled else orders[parcel.order_id].parcels).append(parcel)
    for mail in _read(databases["mail"], Mail):
        orders[mail.order_id].mails.append(mail)
    return Books(accounts=accounts, entries=entries, items=items, movements=movements, orders=orders)


def check(databases: Mapping[str, str]) -> list[Violation]:
    """What no crash, duplicate or delay may ever bring about."""
    books = read_books(databases)
    found = list(_check_balances(books))
    found += _check_stock(books)
    for order_id, traces in books.orders.items():
        found += (Violation(rule=rule, subject=order_id, found=traces.as_text) for rule in _broken_by(traces))
    return found


def check_outcomes(
    orders: Iterable[Order], statuses: Mapping[str, str], databases: Mapping[str, str]
) -> list[Violation]:
    """Each order's saga ended as its line of the file says, and left exactly the traces that belong to that end."""
    listed = list(orders)
    expected = expected_statuses(listed)
    books = read_books(databases)
    found = []
    for order in listed:
        status, wanted = statuses.get(order.id, "missing"), expected[order.id]
        if status != wanted:
            found.append(Violation(rule=f"must be {wanted}", subject=order.id, found=status))
            continue
        traces = books.orders.get(order.id) or Traces()
        rule = _wrong_end(order, status, traces)
        if rule:
            found.append(Violation(rule=rule, subject=order.id, found=traces.as_text))
    strangers = set(books.orders) - {order.id for order in listed}
    return found + [Violation(rule="no such order", subject=name, found="traces of it") for name in sorted(strangers)]


def _broken_by(traces: Traces) -> Iterator[str]:
    paid = sum(entry.amount for entry in traces.charges + traces.refunds)
    if len(traces.charges) > 1:
        yield "paid twice"
    if len(traces.refunds) > len(traces.charges) or paid > 0 or _before(traces.refunds, traces.charges):
        yield "refunded without payment"
    if (traces.parcels or traces.recalled) and (not traces.charges or _before(traces.parcels, traces.charges)):
        yield "shipped unpaid"
    if traces.parcels and traces.refunds:
        yield "shipped and refunded"
    if len(traces.parcels) > 1:
        yield "shipped twice"
    if len(traces.taken) > 1 or len(traces.put_back) > len(traces.taken):
        yield "reserved or released twice"
    if traces.parcels and len(traces.taken) != len(traces.put_back) + 1:
        yield "shipped without reservation"
    if len(traces.mails) > 1 or (traces.mails and not traces.parcels + traces.recalled):
        yield "confirmed twice, or without a parcel"


def _wrong_end(order: Order, status: str, traces: Traces) -> str:
    """Which rule the traces of an order that ended with this status break."""
    numbers = [len(traces.charges), len(traces.refunds), len(traces.taken), len(traces.put_back), len(traces.parcels)]
    if status == "completed" and (numbers != [1, 0, 1, 0, 1] or len(traces.mails) != mail_expected(order)):
        return "completed means paid, reserved, shipped and confirmed once"
    if status == "compensated" and (
        numbers[0] != 1 or numbers[0] != numbers[1] or numbers[2] != numbers[3] or numbers[4]
    ):
        return "compensated means refunded and released"
    if status == "failed" and any(numbers):
        return "failed means that nothing was done"
    return ""


def _check_balances(books: Books) -> Iterator[Violation]:
    moved: Counter[str] = Counter()
    for entry in books.entries:
        moved[entry.account_id] += entry.amount
    for account in books.accounts:
        if account.balance != account.opening + moved[account.id] or account.balance < 0:
            text = f"{account.balance} cents; opened with {account.opening}, moved {moved[account.id]}"
            yield Violation(rule="balance is not what the ledger says", subject=account.id, found=text)


def _check_stock(books: Books) -> Iterator[Violation]:
    moved: Counter[str] = Counter()
    for movement in books.movements:
        moved[movement.sku] += movement.units
    for item in books.items:
        if item.units != item.opening + moved[item.sku] or item.units < 0:
            text = f"{item.units} units; opened with {item.opening}, moved {moved[item.sku]}"
            yield Violation(rule="stock is not what the book says", subject=item.sku, found=text)


def _before(later: Sequence[Entry | Shipment], earlier: Sequence[Entry]) -> bool:
    """Whether something happened before what it needs; all services of the demo share one machine's clock."""
    if not later or not earlier:
        return False
    return _first(later) < _first(earlier)


def _first(rows: Sequence[Entry | Shipment]) -> datetime:
    return min(row.at for row in rows)


def _read(url: str, table: type[Row]) -> list[Row]:
    engine = engine_of(url)
    try:
        with Session(engine, expire_on_commit=False) as session:
            return list(session.scalars(select(table)))
    finally:
        engine.dispose()
