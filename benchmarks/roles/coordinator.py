"""A coordinator, set up as `segue coordinator run` does it."""

from __future__ import annotations

import resource

from sqlalchemy import create_engine

from benchmarks.contracts import registry
from benchmarks.roles.leash import Leash
from segue.cli.collecting import collecting_rarely
from segue.coordinator.batches import TAKE_OVER, BatchedOutbox
from segue.coordinator.service import Coordinator, Options
from segue.coordinator.sql import SqlStore
from segue.observe import Logging
from segue.outbox import Relay, RelayOptions
from segue.topics.kafka import KafkaConsumer, KafkaProducer
from segue.topics.settings import KafkaSettings


def main() -> None:
    """Run until the input ends."""
    leash = Leash()
    observer = Logging()
    database = leash.arguments["database"]
    settings = KafkaSettings(bootstrap=leash.arguments["bootstrap"], properties=leash.arguments.get("properties", {}))
    producer, relays_producer = KafkaProducer(settings, observer=observer), KafkaProducer(settings, observer=observer)
    engine = create_engine(database)
    coordinator = Coordinator(
        leash.names,
        registry(),
        SqlStore(database, observer=observer),
        KafkaConsumer(settings, group=leash.names.coordinator, observer=observer),
        producer,
        observer=observer,
        options=Options(**leash.arguments.get("options", {})),
        broker_id=leash.arguments["bootstrap"],
    )
    relay = Relay(BatchedOutbox(engine), relays_producer, options=RelayOptions(older_than=TAKE_OVER), observer=observer)
    leash.ready(
        {
            "counts": lambda: dict(observer.counts),
            "peak_rss": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )
    with relay, collecting_rarely():
        coordinator.run(leash.stopped.is_set)
    producer.close()
    relays_producer.close()
    engine.dispose()


if __name__ == "__main__":
    main()
