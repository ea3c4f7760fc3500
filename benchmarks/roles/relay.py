"""A relay alone, and a writer in the same process that commits one message now and then."""

from __future__ import annotations

import time

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from benchmarks.roles.leash import Leash
from segue import outbox
from segue.outbox import Relay
from segue.topics.kafka import KafkaProducer
from segue.topics.settings import KafkaSettings

TRICKLE = 200
#: Seconds between two commits of the trickle.
PAUSE = 0.02


def main() -> None:
    """Run until the input ends."""
    leash = Leash()
    engine = create_engine(leash.arguments["database"])
    producer = KafkaProducer(KafkaSettings(bootstrap=leash.arguments["bootstrap"]))

    def trickle() -> dict[str, float]:
        """Id of each message → when its commit had returned."""
        committed: dict[str, float] = {}
        for number in range(TRICKLE):
            with Session(engine) as session:
                key = f"k-{number}"
                message = outbox.add(session, leash.arguments["topic"], {"n": number}, key=key, type="bench.trickle")
                session.commit()
            committed[message] = time.time()
            time.sleep(PAUSE)
        return committed

    relay = Relay(engine, producer)
    leash.ready({"trickle": trickle})
    relay.run(leash.stopped)
    producer.close()
    engine.dispose()


if __name__ == "__main__":
    main()
