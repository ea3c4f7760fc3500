"""The driver: starts transfers at a steady rate, whatever becomes of those before, and writes down what it was told.

Half of them go to Kafka at once, half through the outbox of a database transaction, which a relay publishes.
`python -m tests.chaos.load BOOTSTRAP DATABASE HISTORY SEED RATE MOST`, until SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from examples.transfer.contracts import Transfer
from examples.transfer.workload import transfers
from segue.client import Client
from segue.errors import SegueError
from tests.chaos.estate import NAMES
from tests.chaos.history import History
from tests.chaos.versions import transfer_saga_2

#: Starts that may wait for an acknowledgement at the same time.
THREADS = 16
#: Of a hundred starts, those that an impatient customer asks for twice.
TWICE = 5
#: Seconds between two tries of a start that was not acknowledged, and how many tries there are.
TRY_AGAIN, TRIES = 2.0, 4


class Driver:
    """Starts transfers; may be used by several threads."""

    def __init__(self, client: Client, engine: Engine, history: History) -> None:
        self._client = client
        self._engine = engine
        self._history = history
        self.stop = threading.Event()

    def run(self, *, seed: int, rate: float, most: int) -> None:
        """One start every 1/rate seconds: the schedule is fixed, nobody waits for an answer before the next one."""
        random = Random(seed)
        begun = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            for number, transfer in enumerate(transfers(most, seed)):
                if self.stop.wait(max(0.0, begun + number / rate - time.monotonic())):
                    break
                via = random.choice(("kafka", "outbox"))
                for _ in range(2 if random.randrange(100) < TWICE else 1):
                    pool.submit(self._start, transfer, via)

    def _start(self, transfer: Transfer, via: str) -> None:
        for _ in range(TRIES):
            self._history.write("start", phase="attempted", saga=transfer.id, via=via)
            try:
                if via == "kafka":
                    self._client.start(transfer_saga_2, transfer, id=transfer.id)
                else:
                    with self._engine.begin() as connection:
                        self._client.start(transfer_saga_2, transfer, id=transfer.id, session=connection)
            except (SegueError, SQLAlchemyError) as error:
                self._history.write("start", phase="failed", saga=transfer.id, via=via, error=f"{error!s:.200}")
                if self.stop.wait(TRY_AGAIN):
                    return
            else:
                self._history.write("start", phase="acknowledged", saga=transfer.id, via=via)
                return


def main() -> None:
    """Returns after SIGTERM, once every start under way has been answered."""
    bootstrap, database, path, seed, rate, most = sys.argv[1:]
    engine = create_engine(database, pool_size=THREADS, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    history = History(Path(path))
    with Client.connect(bootstrap=bootstrap, coordinator=NAMES.coordinator, topics=NAMES) as client:
        driver = Driver(client, engine, history)
        signal.signal(signal.SIGTERM, lambda _number, _frame: driver.stop.set())
        driver.run(seed=int(seed), rate=float(rate), most=int(most))
    engine.dispose()
    history.close()


if __name__ == "__main__":
    main()
