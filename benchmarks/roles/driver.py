"""Starts sagas, closed loop or open loop, and plays all participants if asked to: as fast as Python can, raw client.

Closed loop: `in_flight` sagas are started, and one more for every last command that is seen. Open loop: `rate` a second
by the clock, whatever becomes of them. A start's id tells its number, so that the moment at which it should have been
sent is known: first + number / rate.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from benchmarks.contracts import UNLUCKY, order
from benchmarks.roles.leash import Leash
from segue.ids import reply_id
from segue.topics.envelope import Request

_LINGER_MS = 2
#: Seconds between two looks at what is due in the open loop. A generator that sent each start by itself would take a
#: tenth of the machine that it measures, and as much of the broker; what it delays counts in the saga's latency.
_TICK = 0.01


class Driver:
    """One thread that consumes, answers and starts."""

    def __init__(self, leash: Leash) -> None:
        arguments = leash.arguments
        self._leash = leash
        self._answer: bool = arguments.get("answer", False)
        self._last: str = arguments.get("last", "mail.confirm")
        self._saga: str = arguments.get("saga", "four")
        self._account: str = arguments.get("account", "ann")
        self._size: int = arguments.get("size", 300)
        self._prefix: str = arguments.get("prefix", "s")
        self._in_flight: int = arguments.get("in_flight", 0)
        self._rate: float = arguments.get("rate", 0.0)
        self._limit: int = arguments.get("limit", 0)
        self._input: Any = arguments.get("input")
        self._replies, self._requests = leash.names.replies, leash.names.requests
        common = {"bootstrap.servers": arguments["bootstrap"]}
        self._producer = Producer(
            common
            | {"enable.idempotence": True, "linger.ms": _LINGER_MS, "partitioner": "murmur2_random"}
            | {"compression.type": "lz4", "queue.buffering.max.messages": 1_000_000}
        )
        self._consumer = Consumer(common | {"group.id": "driver", "fetch.wait.max.ms": 100})
        topics = arguments["topics"] if self._answer or self._in_flight else []
        known = self._consumer.list_topics(timeout=30).topics
        self._consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t in topics for p in known[t].partitions])
        self._watches = bool(topics)
        self._going = threading.Event()
        self._began = 0.0
        self.started = self.answered = self.ended = self._owed = 0

    def words(self) -> dict[str, Any]:
        """What it can be told."""
        return {"go": self._go, "pause": self._pause, "counts": self._counts}

    def _go(self) -> float:
        self._began = time.time()
        self._owed += self._in_flight
        self._going.set()
        return self._began

    def _pause(self) -> dict[str, int]:
        self._going.clear()
        return self._counts()

    def _counts(self) -> dict[str, int]:
        return {"started": self.started, "answered": self.answered, "ended": self.ended}

    def run(self) -> None:
        """Until the leash says stop."""
        while not self._leash.stopped.is_set():
            if self._watches:
                self._consume()
            else:
                time.sleep(_TICK)
            if self._going.is_set():
                self._start_due()
            self._producer.poll(0)
        self._producer.flush(10)
        self._consumer.close()

    def _consume(self) -> None:
        first = self._consumer.poll(0.005)
        if first is None:
            return
        for message in [first, *self._consumer.consume(2000, 0)]:
            if message.error() is None:
                self._see(message)

    def _see(self, message: Message) -> None:
        headers = dict(message.headers() or ())
        activity = _text(headers["ce_type"])
        if self._answer:
            self._reply(message, headers, activity)
        if activity == self._last:
            self.ended += 1
            self._owed += 1 if self._in_flight else 0

    def _reply(self, message: Message, headers: dict[str, Any], activity: str) -> None:
        command = _text(headers["ce_id"])
        rejected = activity == "mail.confirm" and self._account == UNLUCKY
        outcome = "failure" if rejected else "success"
        body = b"null" if rejected or headers["ce_sagaaction"] == b"compensate" else b'{"ok":true}'
        self._produce(
            self._replies,
            message.key(),
            body,
            [
                ("ce_specversion", b"1.0"),
                ("ce_id", reply_id(command, outcome).encode()),
                ("ce_source", b"driver"),
                ("ce_type", activity.encode()),
                ("ce_causationid", headers["ce_id"]),
                ("ce_sagaid", headers["ce_sagaid"]),
                ("ce_sagaoutcome", outcome.encode()),
                ("content-type", b"application/json"),
            ],
        )
        self.answered += 1

    def _start_due(self) -> None:
        if self._rate:
            due = int((time.time() - self._began) * self._rate) - self.started
        else:
            due, self._owed = self._owed, 0
        if self._limit:
            due = min(due, self._limit - self.started)
        for _ in range(due):
            self._start()

    def _start(self) -> None:
        number, self.started = self.started, self.started + 1
        saga_id = f"{self._prefix}-{number}"
        value = self._input or asdict(order(number, account=self._account, size=self._size))
        request = Request(id=f"{saga_id}-start", action="start", saga_id=saga_id, name=self._saga, source="driver")
        self._produce(self._requests, saga_id.encode(), json.dumps(value).encode(), list(request.headers()))

    def _produce(self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, Any]]) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.01)


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def main() -> None:
    """Run until the input ends."""
    leash = Leash()
    driver = Driver(leash)
    leash.ready(driver.words())
    driver.run()


if __name__ == "__main__":
    main()
