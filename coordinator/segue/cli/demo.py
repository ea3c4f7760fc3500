"""`segue demo`: a new project, run with real processes in a temporary directory, and its outcome checked."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from segue.cli.exits import Problem
from segue.cli.init import write_project
from segue.cli.invocation import Invocation, command
from segue.clock import SYSTEM_CLOCK
from segue.coordinator.queries import LIVE, SagaFilter
from segue.coordinator.reads import Reads
from segue.settings.embedded import BROKER_FILE
from segue.topics.broker import Outgoing
from segue.topics.envelope import Request
from segue.topics.kafka import KafkaProducer
from segue.topics.settings import EMBEDDED_PROPERTIES, KafkaSettings

#: Seconds until the processes must be up, and until all orders must have ended.
STARTED, FINISHED = 60.0, 300.0
#: What the two accounts of the project hold in the beginning, in cents.
_CENTS = 50_000 + 500
_PRICE, _TOO_DEAR = 10, 10_001


_NEXT = (
    "The directory is gone again. To have the same project, and to see one saga from the inside:",
    "",
    "  segue init shop && cd shop",
    "  segue dev sagas payments:worker                            # in a second terminal:",
    "  segue saga start order @order.json --id order-17 --wait",
    "  segue saga show order-17",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo")(show_demo)


def show_demo(
    run: Invocation,
    orders: Annotated[int, typer.Option(min=1, max=4000, help="How many orders.")] = 100,
) -> None:
    """Run a small order saga with failures in a temporary directory, and check the outcome."""
    with TemporaryDirectory(prefix="segue-demo-") as folder:
        directory = Path(folder)
        write_project(directory)
        with _project(run, directory), closing(Reads(f"sqlite:///{directory}/.segue/segue.db")) as found:
            _place(directory, orders)
            _wait(run, found, orders)
            statuses = {group.key: group.count for group in found.groups(SagaFilter(), "status")}
            example = found.sagas(SagaFilter(statuses=("compensated",)), 1).items
            steps = [] if not example else [event.type for event in found.history(example[0].row.id)]
        paid = _paid(directory)
    _tell(run, orders, statuses, paid, steps)


@contextmanager
def _project(run: Invocation, directory: Path) -> Iterator[None]:
    """`segue dev` in `directory`, until the block ends."""
    log = (directory / "dev.log").open("wb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGUE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "segue.cli.main", "dev", "sagas", "payments:worker"],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        with run.out.progress("starting broker, coordinator and worker"):
            _wait_for_broker(process, directory)
        yield
    finally:
        process.terminate()
        process.wait()
        log.close()


def _wait_for_broker(process: subprocess.Popen[bytes], directory: Path) -> None:
    give_up = SYSTEM_CLOCK.monotonic() + STARTED
    while not (directory / BROKER_FILE).exists():
        if process.poll() is not None or SYSTEM_CLOCK.monotonic() > give_up:
            raise Problem(f"the demo did not start: {(directory / 'dev.log').read_text('utf-8', 'replace')}")
        SYSTEM_CLOCK.sleep(0.05)


def _place(directory: Path, orders: int) -> None:
    """Start all orders: of five, one is too dear for the stock, one is of somebody who can't pay."""
    bootstrap = json.loads((directory / BROKER_FILE).read_text("utf-8"))["bootstrap"]
    producer = KafkaProducer(KafkaSettings(bootstrap=bootstrap, properties=EMBEDDED_PROPERTIES))
    failed: list[Exception] = []
    try:
        for n in range(orders):
            account, cents = [("ann", _PRICE), ("ann", _TOO_DEAR), ("bob", _TOO_DEAR), ("ann", _PRICE), ("bob", 1)][
                n % 5
            ]
            request = Request(id=f"demo-{n}", action="start", saga_id=f"order-{n}", name="order", source="demo")
            body = json.dumps({"id": str(n), "account": account, "cents": cents}).encode()
            record = Outgoing(
                topic="shop.requests", key=request.saga_id.encode(), value=body, headers=request.headers()
            )
            producer.send(record, lambda error: failed.append(error) if error is not None else None)
        if producer.flush(30.0) or failed:
            raise Problem(f"the orders could not be sent: {failed[:1]}")
    finally:
        producer.close()


def _wait(run: Invocation, found: Reads, orders: int) -> None:
    give_up = SYSTEM_CLOCK.monotonic() + FINISHED
    done = 0
    with run.out.progress("orders", orders) as advance:
        while done < orders:
            ended = found.count(SagaFilter()) - found.count(SagaFilter(statuses=LIVE))
            advance(ended - done)
            done = ended
            if SYSTEM_CLOCK.monotonic() > give_up:
                raise Problem(f"only {done} of {orders} orders ended within {FINISHED:g} s")
            SYSTEM_CLOCK.sleep(0.1)


def _paid(directory: Path) -> tuple[int, int]:
    """From the service's own database: cents that are gone from the accounts, and orders that are reserved."""
    with closing(sqlite3.connect(directory / "payments.db")) as connection:
        left = connection.execute("SELECT sum(balance) FROM account").fetchone()[0]
        reserved = connection.execute('SELECT "order" FROM reservation').fetchall()
    expected = Counter(_PRICE if int(order) % 5 in (0, 3) else 1 for (order,) in reserved)
    return _CENTS - left, sum(cents * count for cents, count in expected.items())


def _tell(
    run: Invocation, orders: int, statuses: dict[str | None, int], paid: tuple[int, int], steps: list[str]
) -> None:
    balanced = paid[0] == paid[1]
    if run.out.json:
        run.out.document({"orders": orders, "statuses": statuses, "paid": paid[0], "reserved": paid[1], "ok": balanced})
    else:
        run.out.table(("status", "orders"), [(str(status), count) for status, count in statuses.items()])
        run.out.line(f"paid: {paid[0]} cents; price of what is reserved: {paid[1]} cents")
        run.out.line(f"transitions of one compensated order: {len(steps)}")
        run.out.line()
        for line in _NEXT:
            run.out.line(line)
    if not balanced:
        raise Problem("somebody paid for nothing, or got something for nothing")
