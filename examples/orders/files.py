"""The files of the example: orders, what customers have, what is in stock. Made by `generate.py`, kept in git."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from examples.orders.contracts import Order

HERE = Path(__file__).parent
ORDERS, ACCOUNTS, STOCK = HERE / "orders.csv", HERE / "accounts.csv", HERE / "stock.csv"
ORDER_COLUMNS = ("id", "account", "sku", "quantity", "total", "address", "trouble")


def read_orders(limit: int | None = None) -> list[Order]:
    """The first `limit` orders of the file, or all of them."""
    found = [
        Order(
            id=row["id"],
            account=row["account"],
            sku=row["sku"],
            quantity=int(row["quantity"]),
            total=Decimal(row["total"]),
            address=row["address"],
            trouble=row["trouble"],
        )
        for row in _rows(ORDERS)
    ]
    return found[:limit]


def opening_balances() -> Iterator[tuple[str, Decimal]]:
    """Account and balance before the first order."""
    return ((row["account"], Decimal(row["balance"])) for row in _rows(ACCOUNTS))


def opening_stock() -> Iterator[tuple[str, int]]:
    """Sku and units before the first order."""
    return ((row["sku"], int(row["units"])) for row in _rows(STOCK))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
