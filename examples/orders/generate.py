"""Make the files of the example: `python -m examples.orders.generate`. The same seed makes the same files.

Every account has either enough for all of its orders or next to nothing, and of every article there is either enough
or none: so the outcome of an order does not hang on which of two came first.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random

from examples.orders.contracts import Order
from examples.orders.files import ACCOUNTS, ORDER_COLUMNS, ORDERS, STOCK

SEED = 1729
ORDER_COUNT = 3000
ACCOUNT_COUNT = 240
#: Of the accounts, those with next to nothing; of the articles, those that are sold out.
POOR, SOLD_OUT = 8, 2

INSTRUMENTS = ("violin", "viola", "cello", "flute", "oboe", "clarinet", "bassoon", "horn", "trumpet", "harp")
PARTS = ("strings", "case", "stand", "reeds", "score")
STREETS = ("Bachgasse", "Haydn Street", "Rue Satie", "Via Verdi", "Clara-Schumann-Platz", "Elgar Road")

#: What happens to an order, and to how many of a thousand.
TROUBLES: Sequence[tuple[str, int]] = (
    ("bank:slow", 10),
    ("warehouse:slow", 10),
    ("bank:down=1", 20),
    ("carrier:down=1", 15),
    ("carrier:down=2", 15),
    ("carrier:down=3", 15),
    ("carrier:refuses", 30),
    ("carrier:refuses cashier:down=1", 10),
    ("mailbox:refuses", 20),
)


def generate(seed: int = SEED, count: int = ORDER_COUNT) -> tuple[list[Order], dict[str, Decimal], dict[str, int]]:
    """Orders, balances and stock."""
    random = Random(seed)
    prices = {
        f"{name}-{part}": Decimal(random.randrange(500, 20000)).scaleb(-2) for name in INSTRUMENTS for part in PARTS
    }
    accounts = [f"customer-{number:03}" for number in range(1, ACCOUNT_COUNT + 1)]
    poor, sold_out = set(random.sample(accounts, POOR)), set(random.sample(sorted(prices), SOLD_OUT))
    orders = [_order(random, number, accounts, prices) for number in range(1, count + 1)]
    balances = {account: Decimal("1.00") for account in accounts}
    stock = dict.fromkeys(sorted(prices), 0)
    for order in orders:
        if order.account not in poor:
            balances[order.account] += order.total
        if order.sku not in sold_out:
            stock[order.sku] += order.quantity
    return orders, balances, stock


def _order(random: Random, number: int, accounts: Sequence[str], prices: dict[str, Decimal]) -> Order:
    sku = random.choice(sorted(prices))
    quantity = random.choice((1, 1, 1, 2, 3))
    return Order(
        id=f"order-{number:05}",
        account=random.choice(accounts),
        sku=sku,
        quantity=quantity,
        total=prices[sku] * quantity,
        address=f"{random.choice(STREETS)} {random.randrange(1, 100)}",
        trouble=_trouble(random),
    )


def _trouble(random: Random) -> str:
    drawn = random.randrange(1000)
    for trouble, share in TROUBLES:
        if drawn < share:
            return trouble
        drawn -= share
    return ""


def write(seed: int = SEED) -> None:
    """Replace the three files."""
    orders, balances, stock = generate(seed)
    _write(ORDERS, ORDER_COLUMNS, ([str(getattr(order, name)) for name in ORDER_COLUMNS] for order in orders))
    _write(ACCOUNTS, ("account", "balance"), ([name, str(balance)] for name, balance in balances.items()))
    _write(STOCK, ("sku", "units"), ([sku, str(units)] for sku, units in stock.items()))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    write()
