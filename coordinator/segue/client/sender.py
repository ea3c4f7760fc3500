"""Sending one record and waiting until the broker has it, from threads or from an event loop."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from segue.client.waiting import check_wait
from segue.clock import Clock
from segue.errors import BrokerUnavailable, ConfigError
from segue.topics.broker import Outgoing, Producer

#: Seconds that a thread waits inside the producer before it lets another one in.
_TURN = 0.05
#: Seconds between two looks at the producer from an event loop: the first and the longest.
_FIRST_LOOK, _LONGEST_LOOK = 0.0005, 0.02


@dataclass(slots=True)
class _Delivery:
    """Becomes done in a callback of the producer."""

    done: bool = False
    error: Exception | None = None

    def acked(self, error: Exception | None) -> None:
        self.error = error
        self.done = True

    def check(self) -> None:
        if self.error is not None:
            raise self.error


class Sender:
    """Sends from any thread; one at a time is inside the producer.

    Raises BrokerUnavailable if the broker has not acknowledged in time, ConfigError for a topic that is not there.
    """

    def __init__(self, producer: Producer | None, clock: Clock) -> None:
        self._producer = producer
        self._clock = clock
        self._turn = threading.Lock()

    def deliver(self, record: Outgoing, timeout: timedelta) -> None:
        """Return once the record is durable."""
        check_wait("timeout", timeout)
        producer = _given(self._producer)
        until = self._clock.monotonic() + timeout.total_seconds()
        delivery = _Delivery()
        with self._turn:
            producer.send(record, delivery.acked)
        while not delivery.done:
            left = until - self._clock.monotonic()
            if left <= 0:
                raise _unacknowledged(record, timeout)
            with self._turn:
                # Another thread may have taken the acknowledgement along.
                if not delivery.done:
                    producer.poll(min(left, _TURN))
        delivery.check()


class AsyncSender:
    """Sends from one event loop; the producer is asked without waiting, so that all stays on the loop's thread."""

    def __init__(self, producer: Producer | None, clock: Clock, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._producer = producer
        self._clock = clock
        self._sleep = sleep

    async def deliver(self, record: Outgoing, timeout: timedelta) -> None:
        """Return once the record is durable."""
        check_wait("timeout", timeout)
        producer = _given(self._producer)
        until = self._clock.monotonic() + timeout.total_seconds()
        delivery = _Delivery()
        producer.send(record, delivery.acked)
        pause = _FIRST_LOOK
        producer.poll(0)
        while not delivery.done:
            if self._clock.monotonic() >= until:
                raise _unacknowledged(record, timeout)
            await self._sleep(pause)
            pause = min(pause * 2, _LONGEST_LOOK)
            producer.poll(0)
        delivery.check()


def _given(producer: Producer | None) -> Producer:
    if producer is None:
        raise ConfigError("this client has no connection to Kafka: give `bootstrap=` or a producer, or pass `session=`")
    return producer


def _unacknowledged(record: Outgoing, timeout: timedelta) -> BrokerUnavailable:
    saga_id = (record.key or b"").decode()
    return BrokerUnavailable(
        f"Kafka has not acknowledged the request for saga {saga_id!r} within {timeout}; it may still arrive: "
        "ask again with the same id"
    )
