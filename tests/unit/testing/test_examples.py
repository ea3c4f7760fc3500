"""The sagas of `examples/`, under every fault at every step, against books in memory."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import partial

from examples.orders.contracts import Charged, Order, Shipped, charge, confirm, refund, release, reserve, ship
from examples.orders.contracts import recall as recall_parcel
from examples.orders.sagas import order_saga
from examples.transfer.contracts import Posting, Side, Transfer, banks
from examples.transfer.sagas import transfer_saga
from segue.contract import Undo
from segue.testing import Case, Handlers, explore
from segue.testing.faults import Fault

TRANSFER = Transfer(
    id="t-1",
    payer=Side(bank="bank_a", account="ann", amount=100),
    payees=(Side(bank="bank_b", account="ben", amount=60), Side(bank="bank_c", account="cat", amount=40)),
)


class Ledger:
    """What three banks write down: balances, and holds beside them."""

    def __init__(self) -> None:
        self.balances = Counter({"ann": 1000, "ben": 1000, "cat": 1000})
        self.held = 0

    def hold(self, posting: Posting) -> None:
        self.balances[posting.account] -= posting.amount
        self.held += posting.amount

    def release(self, undo: Undo[Posting, None]) -> None:
        self.balances[undo.input.account] += undo.input.amount
        self.held -= undo.input.amount

    def deposit(self, posting: Posting) -> None:
        self.balances[posting.account] += posting.amount

    def take_back(self, undo: Undo[Posting, None]) -> None:
        self.balances[undo.input.account] -= undo.input.amount

    def settle(self, posting: Posting) -> None:
        self.held -= posting.amount


def handlers(ledger: Ledger) -> Handlers:
    found = Handlers()
    for bank in banks.values():
        found.on(bank.hold, ledger.hold).on(bank.deposit, ledger.deposit).on(bank.settle, ledger.settle)
        found.on(bank.release, ledger.release).on(bank.take_back, ledger.take_back)
    return found


def test_a_transfer_conserves_money_under_every_fault() -> None:
    ledgers: list[Ledger] = []

    def fresh() -> Handlers:
        ledgers.append(Ledger())
        return handlers(ledgers[-1])

    def check(case: Case) -> None:
        ledger, status = ledgers[-1], case.after_retry or case.status
        assert status in ("completed", "compensated", "failed", "cancelled"), f"it is still {status}"
        # An effect that the participant only admits as unknown is done once per attempt: that is what a key is for.
        if any(planned.fault is Fault.EFFECT_UNKNOWN for planned in case.plan):
            return
        moved = {"ann": 900, "ben": 1060, "cat": 1040}
        expected = moved if status == "completed" else dict.fromkeys(moved, 1000)
        assert (dict(ledger.balances), ledger.held) == (expected, 0)

    report = explore(transfer_saga, input=TRANSFER, activities=fresh, check=check, budget=400)
    report.raise_for_violations()
    assert report.complete
    assert report.coverage == 1.0
    # After the pivot a settlement that stays silent waits for a person.
    assert "bank_a.settle" in report.may_be_in_doubt


def test_an_order_is_never_shipped_unpaid_under_any_fault() -> None:
    books: list[dict[str, set[str]]] = []

    def note(book: set[str], order: Order) -> None:
        book.add(order.id)

    def strike(book: set[str], undo: Undo[Order, Charged] | Undo[Order, Shipped] | Undo[Order, None]) -> None:
        book.discard(undo.input.id)

    def fresh() -> Handlers:
        paid, reserved, shipped = set[str](), set[str](), set[str]()
        books.append({"paid": paid, "reserved": reserved, "shipped": shipped})

        def pay(order: Order) -> Charged:
            note(paid, order)
            return Charged(charge_id=f"ch-{order.id}")

        def send(order: Order) -> Shipped:
            note(shipped, order)
            return Shipped(order_id=order.id, account=order.account, tracking="p-1")

        found = Handlers().on(charge, pay).on(reserve, partial(note, reserved)).on(ship, send)
        found.on(refund, partial(strike, paid)).on(release, partial(strike, reserved))
        return found.on(recall_parcel, partial(strike, shipped)).on(confirm, lambda shipped: None)

    def check(case: Case) -> None:
        book = books[-1]
        if (case.after_retry or case.status) == "completed":
            assert all(book.values()), "completed, but not done"
        else:
            assert not any(book.values()), "something stands of an order that was undone"

    order = Order(id="o-1", account="ann", sku="lamp", quantity=1, total=Decimal("9.50"), address="Main Street 1")
    report = explore(order_saga, input=order, activities=fresh, check=check, budget=400)
    report.raise_for_violations()
    assert report.complete
    assert report.never_compensated == []
