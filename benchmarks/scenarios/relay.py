"""The outbox relay alone: messages a second from a full table, order per key, commit to topic one at a time."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sqlalchemy import create_engine

from benchmarks.bench import PARTITIONS, Bench, Estate
from benchmarks.figures import percentile
from benchmarks.meters import libpq
from benchmarks.report import Row
from segue.outbox import metadata
from segue.outbox.message import lane_of

KEYS = 2_000
_TOPIC = "bench.events"
_FILL = """
INSERT INTO outbox (id, lane, aggregatetype, aggregateid, type, payload, content_type, created_at)
SELECT gen_random_uuid(), %s, '{topic}', %s, 'bench.filled',
  convert_to('{{"n": ' || n || ', "note": "' || repeat('n', 280) || '"}}', 'UTF8'),
  'application/json', clock_timestamp()
FROM generate_series(1, %s) n
"""


def run(bench: Bench) -> list[Row]:
    """Throughput and latency of one relay process."""
    count = int(bench.pick(100_000, 30_000)) // KEYS * KEYS
    with bench.estate(services=()) as estate:
        topic = f"{_TOPIC}-{estate.tag}"
        bench.create_topics([topic])
        url = estate.side_database("relay")
        engine = create_engine(url)
        metadata.create_all(engine)
        engine.dispose()
        _fill(url, topic, count)
        consumer = _consumer(estate, topic)
        relay = estate.start("relay", "relay", database=url, topic=topic)
        relay.ready()
        arrivals, in_order = _drained(consumer, count)
        latencies = _trickle(estate, consumer)
        consumer.close()
    # The first tenth warms up.
    warm = count // 10
    rate = (count - warm) / (arrivals[-1] - arrivals[warm])
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    order = "order per key kept" if in_order else "ORDER PER KEY BROKEN"
    return [
        Row(
            scenario="relay",
            key="relay.per_s",
            what="relay alone: messages",
            unit="/s",
            value=rate,
            n=count,
            target="≥ 20,000/s, order kept",
            met=rate >= 20_000 and in_order,
            remark=f"{KEYS:,} keys, {order}",
        ),
        Row(
            scenario="relay",
            key="relay.p50_ms",
            what="relay: commit to topic, p50",
            unit="ms",
            value=p50,
            n=len(latencies),
            target="< 10 ms",
            met=p50 < 10,
            remark=f"p99 {p99:.1f} ms",
        ),
    ]


def _fill(url: str, topic: str, count: int) -> None:
    """Every key has its messages in the order of `n`, in the lane that the product gives it."""
    query = _FILL.format(topic=topic)
    with psycopg.connect(libpq(url)) as connection, connection.cursor() as cursor:
        cursor.executemany(query, [(lane_of(f"k-{key}"), f"k-{key}", count // KEYS) for key in range(KEYS)])
        connection.commit()
        connection.execute("ANALYZE outbox")


def _consumer(estate: Estate, topic: str) -> Consumer:
    consumer = Consumer({"bootstrap.servers": estate.bootstrap, "group.id": "bench", "fetch.wait.max.ms": 5})
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)])
    return consumer


def _drained(consumer: Consumer, count: int) -> tuple[list[float], bool]:
    """When each message was stored in the topic, and whether all keys kept their order; first copies count."""
    arrivals: list[float] = []
    last: dict[bytes, int] = {}
    in_order = True
    until = time.monotonic() + 120
    while len(arrivals) < count and time.monotonic() < until:
        for message in consumer.consume(2000, 0.2):
            if message.error() is not None:
                continue
            key, number = bytes(message.key() or b""), json.loads(message.value() or b"")["n"]
            if number > last.get(key, 0):
                in_order = in_order and number == last.get(key, 0) + 1
                last[key] = number
                arrivals.append(message.timestamp()[1] / 1000)
    return sorted(arrivals), in_order and len(arrivals) == count


def _trickle(estate: Estate, consumer: Consumer) -> list[float]:
    """Milliseconds from commit to arrival at a consumer."""
    arrived: dict[str, float] = {}
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            message: Any = consumer.poll(0.05)
            if message is not None and message.error() is None:
                arrived[dict(message.headers())["ce_id"].decode()] = time.time()

    reader = threading.Thread(target=read)
    reader.start()
    committed = estate.children["relay"].tell("trickle")
    estate.wait(lambda: len(arrived) >= len(committed), 20, "all messages of the trickle")
    over.set()
    reader.join()
    return [(arrived[message] - at) * 1000 for message, at in committed.items()]
