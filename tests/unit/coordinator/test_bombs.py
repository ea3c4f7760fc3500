"""Records of a hundred megabytes cost the coordinator, a relay and who lists dead letters little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The address space grows by no more than this many bytes from there on.
LIMIT = """
import resource
def limit(more):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))
"""
COORDINATOR = """
from segue.coordinator.memory import MemoryStore
from segue.topics.broker import Outgoing
from segue.topics.deadletter import is_reference
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock
from tests.unit.saga.sagas import order_saga
clock = ManualClock()
estate = Estate(MemoryStore(clock.now), [order_saga], clock)
estate.run()
for headers in ((), (("ce_causationid", b"c-1"), ("ce_sagaid", b"o-1"))):
    estate.broker.append(Outgoing(topic=NAMES.replies, key=b"o-1", value=bytes(100_000_000), headers=headers))
limit(60_000_000)
estate.run()
assert len(estate.store.tables.letters) == 2
assert all(is_reference(letter.record) for letter in estate.store.tables.letters.values())
assert all(record.value is None for record in estate.dead()) and len(estate.dead()) == 2
"""
LISTS = """
import sys
from datetime import datetime, timezone
from sqlalchemy import create_engine
from segue.coordinator import schema
from segue.coordinator.queries import DeadLetterFilter
from segue.coordinator.reads import Reads
url = f"sqlite:///{sys.argv[1]}"
engine = create_engine(url)
schema.metadata.create_all(engine)
now = datetime.now(timezone.utc)
row = dict(state="dead", topic="t", partition=0, topic_id="", key=b"k", value=bytes(1_000_000), headers=b"[]",
    timestamp_ms=0, reason="r", error_class="E", error_message="m", fingerprint="f", attempts=1, replays=0,
    created_at=now, updated_at=now)
for offset in range(150):
    with engine.begin() as connection:
        connection.execute(schema.dead_letter.insert().values(**row, offset=offset))
reads = Reads(url)
reads.dead_letters(DeadLetterFilter(), 1, whole=False)
limit(60_000_000)
page = reads.dead_letters(DeadLetterFilter(), 150, whole=False)
assert [letter.size for letter in page.items] == [1_000_000] * 150
assert len(list(reads.all_dead_letters(DeadLetterFilter()))) == 150
"""
RELAY = """
import sys
from datetime import datetime, timezone
from sqlalchemy import create_engine, insert
from segue import outbox
from segue.ids import derive
from segue.outbox.message import Message
from segue.outbox.relay import Relay, RelayOptions
from segue.outbox.sql import SqlOutboxStore
from segue.outbox.writer import add_message
from tests.unit.activities.kit import FakeClock
engine = create_engine(f"sqlite:///{sys.argv[1]}")
outbox.create_all(engine)
for n in range(150):
    with engine.begin() as connection:
        add_message(connection, Message(id=derive("m", str(n)), aggregatetype="t", aggregateid=f"k-{n}", type="x",
            payload=bytes(1_000_000), created_at=datetime.now(timezone.utc)))
class Producer:
    def __init__(self): self.told, self.sent = [], 0
    def send(self, record, acked): self.told.append(acked)
    def poll(self, timeout=0.0):
        told, self.told = self.told, []
        for acked in told: acked(None)
        self.sent += len(told)
        return len(told)
    def flush(self, timeout): return self.poll() * 0
clock, producer = FakeClock(), Producer()
relay = Relay(SqlOutboxStore(engine), producer, clock=clock, options=RelayOptions(patience=0.0))
limit(60_000_000)
for _ in range(2000):
    relay.step()
    clock.seconds += 0.05
    if producer.sent == 150: break
assert producer.sent == 150, producer.sent
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
@pytest.mark.parametrize("code", [COORDINATOR, LISTS, RELAY], ids=["coordinator", "lists", "relay"])
def test_bombs_cost_no_memory(code: str, tmp_path: object) -> None:
    made = subprocess.run(
        [sys.executable, "-c", LIMIT + code, f"{tmp_path}/d.sqlite"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
