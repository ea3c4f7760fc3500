"""A real service: inbox, handler and reply in one transaction of its own database. The handlers do nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from benchmarks import contracts
from benchmarks.contracts import UNLUCKY, Done, Order
from benchmarks.roles.leash import Leash
from segue.activities import Context, Rejected, Undo, Worker


def labour(seconds: float) -> Callable[[Context[Session], int], Done]:
    """A handler that takes so long."""

    def work(ctx: Context[Session], item: int) -> Done:
        time.sleep(seconds)
        return Done(ok=True)

    return work


def worker_of(service: str, sessions: sessionmaker[Session], seconds: float = 0.0) -> Worker[Session]:
    """The worker of one of the four services, or of `labour`, whose handler takes `seconds`."""
    worker = Worker(service, sessions)
    if service == "labour":
        worker.handle(contracts.labour)(labour(seconds))
        return worker
    invoke = {"payments": contracts.charge, "stock": contracts.reserve, "shipping": contracts.ship}
    undo = {"payments": contracts.refund, "stock": contracts.release, "shipping": contracts.recall}

    def do(ctx: Context[Session], order: Order) -> Done:
        if service == "mail" and order.account == UNLUCKY:
            raise Rejected("unlucky", "as ordered")
        return Done(ok=True)

    def take_back(ctx: Context[Session], done: Undo[Order, Done]) -> None:
        return None

    worker.handle(invoke.get(service, contracts.confirm))(do)
    if service in undo:
        worker.handle(undo[service])(take_back)
    return worker


def main() -> None:
    """Run until the input ends."""
    leash = Leash()
    engine = create_engine(leash.arguments["database"], pool_size=20)
    worker = worker_of(leash.arguments["service"], sessionmaker(engine), leash.arguments.get("seconds", 0.0))
    ready = threading.Event()

    def say() -> None:
        ready.wait()
        leash.ready()

    threading.Thread(target=say, name="ready", daemon=True).start()
    worker.run(leash.arguments["bootstrap"], topics=leash.names, stop=leash.stopped, ready=ready)
    engine.dispose()


if __name__ == "__main__":
    main()
