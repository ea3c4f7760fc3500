from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

import segue.outbox.relay as relay_module
from segue import outbox
from segue.errors import BrokerUnavailable, RejectedRecord
from segue.outbox.relay import Relay, RelayOptions
from segue.outbox.schema import outbox_lane_table, outbox_quarantine_table, outbox_table
from segue.outbox.sql import SqlOutboxStore
from segue.outbox.store import PendingRow
from segue.topics.broker import Acked, Outgoing, Record
from segue.topics.memory import MemoryBroker
from tests.unit.activities.kit import FakeClock, memory_engine, sqlite_engine

TOPIC = "events"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = memory_engine()
    outbox.create_all(engine)
    yield engine
    engine.dispose()


class Fussy:
    """A producer whose acknowledgements come when a test wants them; `refuse` says what fails."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.waiting: list[tuple[Outgoing, Acked]] = []
        self.refuse: dict[bytes, Exception] = {}
        self.hold = False

    def send(self, record: Outgoing, acked: Acked) -> None:
        self.waiting.append((record, acked))

    def poll(self, timeout: float = 0.0) -> int:
        if self.hold:
            return 0
        waiting, self.waiting = self.waiting, []
        for record, acked in waiting:
            error = self.refuse.get(record.value or b"")
            if error is None:
                self.sent.append(record)
            acked(error)
        return len(waiting)

    def flush(self, timeout: float) -> int:
        return self.poll() * 0

    def close(self) -> None:
        pass

    @property
    def values(self) -> list[str]:
        return [(record.value or b"").decode() for record in self.sent]


def add(engine: Engine, *values: str, key: str = "k") -> None:
    with Session(engine) as session:
        for value in values:
            outbox.add(session, TOPIC, value.encode(), key=key, type="happened")
        session.commit()


def drive(relay: Relay, clock: FakeClock, steps: int = 20) -> None:
    for _ in range(steps):
        relay.step()
        clock.seconds += 0.1


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(outbox_table.c.seq)).all())


def lanes_of(engine: Engine) -> Sequence[str]:
    with engine.connect() as connection:
        return [row.owner for row in connection.execute(select(outbox_lane_table.c.owner))]


def test_rows_are_sent_in_order_and_deleted_once_acknowledged(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock)
    add(engine, "1", "2", "3")
    producer.hold = True
    drive(relay, clock, 3)
    assert rows(engine) == 3, "not acknowledged, not deleted"
    producer.hold = False
    drive(relay, clock)
    assert producer.values == ["1", "2", "3"]
    assert rows(engine) == 0


def test_a_failed_send_holds_back_its_own_key_only_until_it_succeeds(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, options=RelayOptions(tries=100))
    producer.refuse[b"a2"] = RejectedRecord("too large")
    add(engine, "a1", "a2", "a3", key="a")
    add(engine, "b1", "b2", key="b")
    drive(relay, clock, 30)
    assert sorted(producer.values) == ["a1", "b1", "b2"]
    producer.refuse.clear()
    drive(relay, clock, 60)
    assert [value for value in producer.values if value.startswith("a")] == ["a1", "a2", "a3"]
    assert rows(engine) == 0


def test_a_broker_that_is_down_pauses_the_relay_and_loses_nothing(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock)
    producer.refuse = {str(n).encode(): BrokerUnavailable("down") for n in range(9)}
    for n in range(9):
        add(engine, str(n), key=f"k{n % 3}")
    drive(relay, clock, 30)
    assert (producer.values, rows(engine)) == ([], 9)
    producer.refuse.clear()
    drive(relay, clock, 60)
    assert rows(engine) == 0
    for key in range(3):
        assert [v for v in producer.values if int(v) % 3 == key] == [str(n) for n in range(9) if n % 3 == key]


def test_a_row_that_can_never_be_sent_is_quarantined_after_its_tries_and_its_key_goes_on(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock)
    producer.refuse[b"bad"] = RejectedRecord("too large")
    add(engine, "bad", "good")
    drive(relay, clock, 80)
    assert producer.values == ["good"]
    with engine.connect() as connection:
        [kept] = connection.execute(select(outbox_quarantine_table)).all()
    assert (kept.attempts, kept.aggregateid) == (3, "k")
    assert "too large" in kept.error
    assert rows(engine) == 0


def test_a_row_that_makes_no_sense_is_quarantined_at_once(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock)
    add(engine, "odd", "good")
    with engine.begin() as connection:
        connection.execute(update(outbox_table).where(outbox_table.c.payload == b"odd").values(headers=[1, 2]))
    drive(relay, clock)
    assert producer.values == ["good"]
    assert rows(engine) == 0


def test_a_row_whose_transaction_commits_late_is_sent_although_its_seq_was_passed(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock)
    add(engine, "1", "2")
    with engine.begin() as connection:
        connection.execute(update(outbox_table).values(seq=outbox_table.c.seq + 100))
    drive(relay, clock)
    add(engine, "late")
    with engine.begin() as connection:
        connection.execute(update(outbox_table).values(seq=5))
    drive(relay, clock)
    assert producer.values == ["1", "2", "late"]


def test_young_commands_are_left_to_whoever_publishes_them_from_memory(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    options = RelayOptions(older_than=timedelta(seconds=10))
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, options=options)
    add(engine, "event", "command", "request", "reply")
    rows = {"command": ("invoke", None), "request": ("start", None), "reply": ("compensate", "success")}
    with engine.begin() as connection:
        for payload, (action, outcome) in rows.items():
            changed = update(outbox_table).where(outbox_table.c.payload == payload.encode())
            connection.execute(changed.values(saga_action=action, saga_outcome=outcome))
    drive(relay, clock)
    assert producer.values == ["event", "request", "reply"], "a reply waits for nobody"
    with engine.begin() as connection:
        connection.execute(update(outbox_table).values(created_at=datetime.now(UTC) - timedelta(seconds=11)))
    drive(relay, clock)
    assert producer.values == ["event", "request", "reply", "command"]


class SlowClock(FakeClock):
    """Its wall clock is an hour behind."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=1)


def test_the_age_of_a_row_is_told_by_the_databases_clock_not_by_the_relays(engine: Engine) -> None:
    clock, producer = SlowClock(), Fussy()
    options = RelayOptions(older_than=timedelta(seconds=10))
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, options=options)
    add(engine, "command")
    with engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=11)
        connection.execute(update(outbox_table).values(saga_action="invoke", created_at=past))
    drive(relay, clock)
    assert producer.values == ["command"]


def test_two_relays_share_the_lanes_and_a_dead_ones_are_taken_over(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    store = outbox.SqlOutboxStore(engine)
    one = Relay(store, producer, clock=clock, owner="one")
    two = Relay(store, producer, clock=clock, owner="two")
    for _ in range(12):
        one.step()
        two.step()
        clock.seconds += 5.1
    owners = lanes_of(engine)
    assert (owners.count("one"), owners.count("two")) == (32, 32)
    one.shut()
    assert lanes_of(engine).count("") == 32
    clock.seconds += 5.1
    two.step()
    assert set(lanes_of(engine)) == {"two"}


def test_a_relay_whose_lanes_were_taken_sends_nothing_more_of_them(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, owner="one")
    relay.step()
    with engine.begin() as connection:
        connection.execute(update(outbox_lane_table).values(owner="other", token=outbox_lane_table.c.token + 1))
    add(engine, "1")
    drive(relay, clock, 10)
    assert producer.values == []
    assert rows(engine) == 1


def test_a_relay_that_has_its_lanes_back_sends_nothing_past_the_row_of_a_key_that_is_under_way(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    relay = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, owner="one")
    add(engine, "1", "2")
    producer.hold = True
    drive(relay, clock, 2)
    clock.seconds += 3600  # its lease is over, and it gets the same lanes again
    drive(relay, clock, 5)
    assert [record.value for record, _ in producer.waiting] == [b"1"]
    producer.refuse[b"1"] = BrokerUnavailable("down")
    producer.hold = False
    relay.step()
    producer.refuse.clear()
    drive(relay, clock, 60)
    assert producer.values == ["1", "2"]


def test_a_row_that_is_committed_late_is_sent_behind_the_one_that_is_under_way_which_goes_out_once(
    engine: Engine,
) -> None:
    clock, producer = FakeClock(), Fussy()
    store, options = outbox.SqlOutboxStore(engine), RelayOptions(batch=2, patience=0.0)
    relay = Relay(store, producer, clock=clock, owner="one", options=options)
    add(engine, "1", "2", "3", "4", "5", "6", "7", "8")
    with engine.begin() as connection:
        connection.execute(update(outbox_table).values(seq=outbox_table.c.seq + 100))
    producer.hold = True
    drive(relay, clock, 2)
    add(engine, "late")
    with engine.begin() as connection:
        connection.execute(update(outbox_table).where(outbox_table.c.payload == b"late").values(seq=5))
    drive(relay, clock, 2)
    producer.hold = False
    drive(relay, clock, 30)
    assert producer.values == ["1", "late", "2", "3", "4", "5", "6", "7", "8"]
    assert rows(engine) == 0


@pytest.mark.parametrize(("size", "page", "most"), [(10, 80, 320), (16 * 1024, 20, 40)])
def test_a_backlog_is_held_in_growing_parts_as_far_as_their_bytes_allow(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, page: int, most: int
) -> None:
    monkeypatch.setattr(relay_module, "MOST_BYTES", 40 * (16 * 1024 + relay_module.ROW_BYTES))
    asked: list[int] = []
    held: list[int] = []

    class Watched(SqlOutboxStore):
        def load(self, owner: str, limit: int, **more: Any) -> Sequence[PendingRow]:
            found = super().load(owner, limit, **more)
            before = more["excluded"].held
            fresh = [row for row in found if row.seq not in before]
            asked.append(len(fresh))
            held.append(len(before) + len(fresh))
            return found

    producer, clock = Fussy(), FakeClock()
    values = [f"{n:0{size}}" for n in range(200)]
    add(engine, *values)
    options = RelayOptions(batch=10, patience=0.0)
    drive(Relay(Watched(engine), producer, options=options, clock=clock), clock, steps=450)
    assert producer.values == values, "one key: one under way at a time, in order"
    assert asked[0] == 10
    assert max(asked) == page, "half of what may be held is loaded at a time"
    assert max(held) <= most + 1, "and what waits to be deleted"
    assert rows(engine) == 0


def test_how_small_rows_were_does_not_count_for_those_that_come_after_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MOST_BYTES", 40 * (16 * 1024 + relay_module.ROW_BYTES))
    pages: list[int] = []

    class Watched(SqlOutboxStore):
        def load(self, owner: str, limit: int, **more: Any) -> Sequence[PendingRow]:
            found = super().load(owner, limit, **more)
            fresh = [row for row in found if row.seq not in more["excluded"].held]
            if fresh and fresh[0].key == f"k-{fresh[0].seq}":
                pages.append(len(fresh))
            return found

    with Session(engine) as session:
        for n in range(1, 701):
            large = n > 300  # few keys at first, so that more and more is held; then as many as there are rows
            key, value = (f"k-{n}", b"x" * 16 * 1024) if large else (f"k-{n % 5}-small", b"x")
            outbox.add(session, TOPIC, value, key=key, type="happened")
        session.commit()
    producer, clock = Fussy(), FakeClock()
    drive(Relay(Watched(engine), producer, options=RelayOptions(batch=10, patience=0.0), clock=clock), clock, steps=200)
    assert rows(engine) == 0
    assert len(pages) > 5
    assert max(pages[1:]) == 20, "half of what may be held is loaded at a time"


def test_a_crash_after_the_send_sends_the_same_bytes_again(engine: Engine) -> None:
    clock, producer = FakeClock(), Fussy()
    store: Any = outbox.SqlOutboxStore(engine)
    relay = Relay(store, producer, clock=clock, owner="one")
    add(engine, "1")
    relay.step()
    producer.poll()
    again = Relay(outbox.SqlOutboxStore(engine), producer, clock=clock, owner="one")
    drive(again, clock)
    assert len(producer.sent) == 2
    assert producer.sent[0] == producer.sent[1]
    assert rows(engine) == 0


def test_a_commit_wakes_the_relay_of_the_same_process_and_leaving_the_lifespan_sends_what_is_under_way(
    tmp_path: Path,
) -> None:
    engine = sqlite_engine(str(tmp_path / "shop.sqlite"))
    outbox.create_all(engine)
    arrived = threading.Event()
    broker = MemoryBroker()
    append = broker.append

    def seen(record: Outgoing) -> Record:
        stored = append(record)
        arrived.set()
        return stored

    broker.append = seen  # type: ignore[method-assign]

    async def app() -> None:
        async with Relay(engine, broker.producer()):
            add(engine, "1")
            assert await asyncio.to_thread(arrived.wait, 10)

    asyncio.run(app())
    assert [record.value for record in broker.records(TOPIC)] == [b"1"]
    assert rows(engine) == 0
    assert set(lanes_of(engine)) == {""}
    engine.dispose()
