"""DBOS in one process: four trivial steps, in threads; prints workflows a second of each window, as one JSON line.

Runs in the peers' environment. Arguments: database, threads, warm_up and seconds, windows, unlucky. Reads a line before
it begins, so that several processes begin together; `latency` runs one workflow at a time instead.
"""

# Its packages are in an environment of its own, which type checkers do not see.
# mypy: disable-error-code="import-not-found, untyped-decorator"
from __future__ import annotations

import json
import logging
import sys
import threading
import time

from dbos import DBOS, DBOSConfig

ARGUMENTS = json.loads(sys.argv[1])
NOTE = "n" * 250


class Unlucky(Exception):
    """The fourth step says no."""


@DBOS.step()
def step(name: str, order: dict[str, str]) -> dict[str, bool]:
    """A step that does nothing but fail where it is told to."""
    if name == "confirm" and order["account"] == "unlucky":
        raise Unlucky(name)
    return {"ok": True}


@DBOS.step()
def undo(name: str, order: dict[str, str]) -> None:
    """A compensation that does nothing."""


@DBOS.workflow()
def four(order: dict[str, str]) -> bool:
    """Four steps in a row; a failure is undone in reverse."""
    done: list[str] = []
    try:
        for name in ("charge", "reserve", "ship", "confirm"):
            step(name, order)
            done.append(name)
    except Unlucky:
        for name in reversed(done):
            undo(name, order)
        return False
    return True


def measured() -> list[float]:
    """Workflows a second of each window."""
    counts = [0] * ARGUMENTS["threads"]
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            four({"account": "unlucky" if ARGUMENTS["unlucky"] else "ann", "note": NOTE})
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(ARGUMENTS["threads"])]
    for thread in threads:
        thread.start()
    time.sleep(ARGUMENTS["warm_up"])
    rates = []
    for _ in range(ARGUMENTS["windows"]):
        before, began = sum(counts), time.monotonic()
        time.sleep(ARGUMENTS["seconds"])
        rates.append((sum(counts) - before) / (time.monotonic() - began))
    over.set()
    for thread in threads:
        thread.join()
    return rates


def latencies() -> list[float]:
    """Milliseconds of one workflow after the other."""
    found = []
    for number in range(ARGUMENTS["latency"] + 20):
        began = time.perf_counter()
        four({"account": "ann", "note": NOTE})
        if number >= 20:
            found.append((time.perf_counter() - began) * 1000)
    return found


def main() -> None:
    """Launch, wait for the word, measure."""
    logging.disable(logging.WARNING)
    config: DBOSConfig = {"name": "bench", "system_database_url": ARGUMENTS["database"], "log_level": "ERROR"}
    if ARGUMENTS.get("executor"):
        config["executor_id"] = ARGUMENTS["executor"]
    DBOS(config=config)
    DBOS.launch()
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    print(json.dumps(latencies() if ARGUMENTS.get("latency") else measured()), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main()
