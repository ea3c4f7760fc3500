"""A worker as a service runs it: the real client, the embedded broker, SQLite; stopped and started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from segue.activities import Context, Worker
from segue.topics.broker import Record
from segue.topics.envelope import parse_reply
from segue.topics.kafka import KafkaConsumer, KafkaProducer, MockCluster
from segue.topics.settings import KafkaSettings
from tests.unit.activities.kit import COMMANDS, REPLIES, Base, Booking, Charged, Order, charge, command, record_of


@pytest.fixture
def bootstrap() -> Iterator[str]:
    cluster = MockCluster()
    for topic in (COMMANDS, REPLIES, "payments.dlq"):
        cluster.create_topic(topic)
    yield cluster.bootstrap
    cluster.close()


def serve(bootstrap: str, sessions: sessionmaker[Session], until: Any) -> None:
    worker = Worker("payments", sessions=sessions)

    @worker.handle(charge)
    def charge_order(ctx: Context[Session], order: Order) -> Charged:
        ctx.session.add(Booking(order=order.id, amount=order.total))
        return Charged(ctx.idempotency_key)

    worker.create_tables()
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            # The embedded broker holds a group for one session timeout after a member has left.
            worker.run(bootstrap, properties={"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}, stop=stop)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until()
    finally:
        stop.set()
        thread.join(60)
    assert failures == []


def test_commands_are_answered_over_kafka_and_a_restart_goes_on_where_it_stopped(
    bootstrap: str, tmp_path: Path
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'payments.sqlite'}")
    Base.metadata.create_all(engine)
    settings = KafkaSettings(bootstrap=bootstrap)
    producer, replies = KafkaProducer(settings), KafkaConsumer(settings, group=None)
    replies.subscribe([REPLIES], starts=lambda assigned: {}, revoked=lambda revoked: None)
    seen: list[Record] = []

    def round_of(numbers: range) -> Any:
        def play() -> None:
            for n in numbers:
                producer.send(record_of(command(f"o-{n}")), lambda error: None)
            assert producer.flush(10) == 0
            for _ in range(300):
                seen.extend(replies.poll(100, 0.2).records)
                if len(seen) >= numbers.stop:
                    return
            pytest.fail(f"only {len(seen)} replies")

        return play

    serve(bootstrap, sessionmaker(engine), round_of(range(20)))
    serve(bootstrap, sessionmaker(engine), round_of(range(20, 40)))
    seen.extend(replies.poll(100, 0.5).records)
    replies.close()
    producer.close()
    assert [parse_reply(record).outcome for record in seen] == ["success"] * 40
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Booking)) == 40
    engine.dispose()
