"""Thousands of orders across four services, with crashes and duplicates on the way, and the proof that all is well.

    python -m examples.orders.demo                                     # embedded broker, SQLite
    python -m examples.orders.demo --bootstrap localhost:9092 --database-server postgresql+psycopg://localhost/postgres

Exit code 0 only if every order ended as its line in `orders.csv` says, and the services' books agree.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from examples.driver.options import parse
from examples.driver.play import Cast, Service
from examples.driver.show import Proof, show
from examples.orders.check import check, check_outcomes
from examples.orders.files import read_orders
from examples.orders.sagas import order_saga

SERVICES = ("stock", "payments", "shipping", "mail")
#: What `check` and `check_outcomes` have looked at, when they find nothing.
PROVED = (
    "no order was paid twice, shipped unpaid, or refunded without payment",
    "every compensated order has its payment refunded and its stock released",
    "every completed order was paid, reserved and shipped exactly once",
    "balances and stock reconcile with their books, to the cent and to the unit",
    "every order ended as its line in orders.csv says",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the process's exit code."""
    orders = read_orders()
    options = parse(
        arguments,
        prog="examples.orders.demo",
        about="Orders across four services: pay, reserve, ship, confirm; with crashes and duplicates on the way.",
        what="orders",
        default=len(orders),
        most=len(orders),
    )
    orders = orders[: options.count]
    cast = Cast(
        title="orders",
        coordinator="orders",
        sagas="examples.orders.sagas",
        definition=order_saga,
        inputs={order.id: order for order in orders},
        services=[Service(name=name, module=f"examples.orders.{name}") for name in SERVICES],
        victims=("stock", "payments", "shipping"),
    )

    def prove(databases: Mapping[str, str], statuses: Mapping[str, str]) -> Proof:
        return Proof(proved=PROVED, violations=check(databases) + check_outcomes(orders, statuses, databases))

    return show(cast, options, prove)


if __name__ == "__main__":
    sys.exit(main())
