"""Before the first fault and after the last: the system runs smoothly, and comes to rest."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, create_engine, text

from examples.driver.processes import DemoFailed
from examples.transfer.contracts import BANKS
from segue.topics.broker import Partition, Record
from segue.topics.kafka import KafkaConsumer
from tests.chaos.damage import digest
from tests.chaos.estate import NAMES
from tests.chaos.fleet import COORDINATORS, DRIVER, SEGUE, Fleet
from tests.chaos.history import History
from tests.chaos.versions import NEW

#: Seconds in which the first sagas must have ended.
WARM_UP = 90.0
#: Seconds in which everything must have come to rest.
PATIENCE = 150.0
#: Seconds between two looks at the databases.
LOOK_EVERY = 1.0
#: Tables of the coordinator in which something that is still to be done would stand.
_QUIET = (
    "SELECT (SELECT count(*) FROM saga WHERE ended_at IS NULL), (SELECT count(*) FROM outbox),"
    " (SELECT count(*) FROM outbox_batch),"
    " (SELECT count(*) FROM operator_request),"
    " (SELECT count(*) FROM dead_letter WHERE state IN ('received', 'parked'))"
)


def warm_up(fleet: Fleet) -> None:
    """Returns once sagas end. Raises DemoFailed if they don't."""
    url = fleet.place.databases["coordinator"]
    if not fleet.pause(WARM_UP, lambda: _ask(url, "SELECT count(*) FROM saga WHERE ended_at IS NOT NULL")[0][0] >= 20):
        raise DemoFailed(f"hardly a saga ended in the first {WARM_UP:g} s; see {fleet.place.directory}")


def mend(fleet: Fleet) -> None:
    """Everything runs again, the newest version everywhere, and nobody starts anything more."""
    fleet.processes.stop_one(DRIVER)
    for name in COORDINATORS:
        if fleet.sagas[name] != NEW:
            fleet.stop(name)
            fleet.pause(30.0, lambda name=name: fleet.has_ended(name))  # type: ignore[misc]
            fleet.sagas[name] = NEW
            fleet.start(name)


def come_to_rest(fleet: Fleet) -> bool:
    """True once nothing is left to be done; a person helps where one is asked for."""
    give_up = time.monotonic() + PATIENCE
    asked_at = time.monotonic() + 20.0
    while not _quiet(fleet):
        if time.monotonic() > give_up:
            return False
        if time.monotonic() > asked_at:
            asked_at += 20.0
            _help(fleet)
        fleet.pause(LOOK_EVERY)
    return True


def write_down(fleet: Fleet, history: History) -> None:
    """Offsets and dead letter topics, once no process runs any more."""
    for partition, group, position, end in _positions(fleet):
        history.write(
            "offsets", group=group, topic=partition.topic, partition=partition.number, committed=position, end=end
        )
    for record in _all_of(fleet, [f"{bank}.dlq" for bank in BANKS]):
        reason = (dict(record.headers).get("dlq_reason") or b"?").decode()
        name = digest(record.key, record.value, record.headers)
        history.write("dead_letter", topic=record.topic, digest=name, reason=reason)


def _positions(fleet: Fleet) -> Iterator[tuple[Partition, str | None, int, int]]:
    """Partition, group (None: the coordinator, which keeps its own offsets), how far it was read, its end."""
    groups: list[tuple[str | None, tuple[str, ...]]] = [(None, (NAMES.requests, NAMES.replies))]
    groups += [(bank, (NAMES.commands_of(bank),)) for bank in BANKS]
    for group, topics in groups:
        consumer = KafkaConsumer(fleet.place.settings, group=group)
        try:
            ends = consumer.end_offsets(topics)
            positions = consumer.committed(list(ends)) if group else _stored(fleet)
        finally:
            consumer.close()
        for partition, end in ends.items():
            yield partition, group, positions.get(partition, 0), end


def _stored(fleet: Fleet) -> dict[Partition, int]:
    rows = _ask(fleet.place.databases["coordinator"], "SELECT topic, partition, next FROM consumer_offset")
    return {Partition(row.topic, row.partition): row.next for row in rows}


def _all_of(fleet: Fleet, topics: list[str]) -> Iterator[Record]:
    consumer = KafkaConsumer(fleet.place.settings, group=None)
    try:
        left = {partition for partition, end in consumer.end_offsets(topics).items() if end}
        consumer.subscribe(topics, starts=lambda _assigned: {}, revoked=lambda _partitions: None)
        ends: set[Partition] = set()
        while left - ends:
            polled = consumer.poll(500, 0.5)
            yield from polled.records
            ends |= polled.ended.keys()
            fleet.signals.check()
    finally:
        consumer.close()


def _quiet(fleet: Fleet) -> bool:
    """Whether nothing is left in any outbox, every saga has ended, and everything is read."""
    for name, url in fleet.place.databases.items():
        query = _QUIET if name == "coordinator" else "SELECT count(*) FROM outbox"
        if any(_ask(url, query)[0]):
            return False
    return all(position >= end for _, _, position, end in _positions(fleet))


def _ask(url: str, query: str) -> Sequence[Row[Any]]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(text(query)).all()
    finally:
        engine.dispose()


def _help(fleet: Fleet) -> None:
    """What a person on call does: try again what waits for one, lay aside what nobody can read."""
    reason = ("--reason", "everything is mended", "--actor", "chaos", "--no-wait")
    for what in (("saga", "retry", "--definition", "transfer"), ("dlq", "discard", "--since", "2h")):
        done = subprocess.run(
            [*SEGUE, *what, *reason],
            env={**os.environ, **fleet.place.environment("person", "coordinator")},
            cwd=fleet.place.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said = (done.stdout + done.stderr)[-300:]
        fleet.history.write("person", asked=" ".join(what[:2]), code=done.returncode, said=said)
