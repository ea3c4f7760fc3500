"""The cost of one transition as the history grows: with the saga in the cache, and rebuilt from its history.

One thread, a broker in memory, the real store: nothing but the coordinator and PostgreSQL is measured.
"""

from __future__ import annotations

import time

from benchmarks.bench import Bench, Estate
from benchmarks.contracts import Wide, registry
from benchmarks.figures import median
from benchmarks.report import Row
from segue.coordinator.service import Coordinator
from segue.coordinator.sql import SqlStore
from segue.ids import reply_id
from segue.topics import Converter, MemoryBroker
from segue.topics.broker import Outgoing
from segue.topics.envelope import Command, Reply, Request, parse_command

#: Transitions that are timed at each length.
SAMPLES = 20


class Single:
    """One saga of many calls one after another; `transition()` answers its command and lets the coordinator move."""

    def __init__(self, estate: Estate) -> None:
        self._names = estate.names
        self._store = SqlStore(estate.database)
        self._broker = MemoryBroker(partitions=1)
        for topic in (self._names.replies, self._names.requests, self._names.dlq, self._names.commands_of("mail")):
            self._broker.create_topic(topic)
        self._producer = self._broker.producer()
        self._participant = self._broker.consumer(None)
        self._participant.subscribe([self._names.commands_of("mail")], starts=lambda _: {}, revoked=lambda _: None)
        self._coordinator = self._fresh()
        request = Request(id="start", action="start", saga_id="long", name="chain")
        self._send(self._names.requests, Converter().to_bytes(Wide(calls=1_000_000)), request.headers())
        self._pending = self._command()

    def _fresh(self) -> Coordinator:
        coordinator = Coordinator(
            self._names,
            registry(),
            self._store,
            self._broker.consumer(self._names.coordinator),
            self._broker.producer(),
        )
        for _ in range(5):
            coordinator.step()
        return coordinator

    def _send(self, topic: str, body: bytes, headers: tuple[tuple[str, bytes | None], ...]) -> None:
        self._producer.send(Outgoing(topic=topic, key=b"long", value=body, headers=headers), lambda _: None)
        self._producer.flush(1)

    def _command(self) -> Command:
        for _ in range(1000):
            self._coordinator.step()
            records = self._participant.poll(10, 0).records
            if records:
                return parse_command(records[-1])
        raise AssertionError("the saga sends no command any more")

    def transition(self) -> float:
        """Seconds of one transition, its commit included."""
        command = self._pending
        reply = Reply(id=reply_id(command.id, "success"), command_id=command.id, saga_id="long")
        self._send(self._names.replies, b'{"ok":true}', reply.headers())
        began = time.perf_counter()
        self._pending = self._command()
        return time.perf_counter() - began

    def forget(self) -> None:
        """A new coordinator, whose cache is empty."""
        self._coordinator.drain()
        self._coordinator.close()
        self._coordinator = self._fresh()

    def close(self) -> None:
        """Close the coordinator and its store."""
        self._coordinator.close()
        self._store.close()


def run(bench: Bench) -> list[Row]:
    """Hit and miss at 10, 1,000 and 10,000 transitions."""
    rows = []
    with bench.estate(services=("mail",)) as estate:
        single = Single(estate)
        done = 0
        for length in (10, 1_000) if bench.quick else (10, 1_000, 10_000):
            while done < length:
                single.transition()
                done += 1
            hit = median([single.transition() for _ in range(SAMPLES)])
            done += SAMPLES
            single.forget()
            miss = single.transition()
            done += 1
            rows += [
                _row(f"history.hit_{length}_ms", f"one transition at {length:,} events, cached", hit, "flat"),
                _row(f"history.miss_{length}_ms", f"one transition at {length:,} events, rebuilt", miss, "linear"),
            ]
        single.close()
    return rows


def _row(key: str, what: str, seconds: float, target: str) -> Row:
    return Row(scenario="history", key=key, what=what, unit="ms", value=seconds * 1000, target=target)
