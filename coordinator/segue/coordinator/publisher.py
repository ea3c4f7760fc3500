"""Publishing from memory right after the commit; the relay publishes what this process could not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from segue.clock import Clock
from segue.errors import SegueError
from segue.observe import Observer
from segue.outbox.message import Message, records_of
from segue.topics.broker import Outgoing, Producer

#: Acknowledged batches are deleted after this many seconds at the latest…
FORGET_AFTER = 0.2
#: …or as soon as there are this many.
FORGET_AT = 200


class _Sent(msgspec.Struct):
    """A batch of messages, and how many of them Kafka has not acknowledged."""

    seq: int
    missing: int


class Publisher:
    """Sends committed messages and knows which of their batches can go. A batch that stays is the relay's."""

    def __init__(self, producer: Producer, clock: Clock, observer: Observer) -> None:
        self._producer = producer
        self._clock = clock
        self._observer = observer
        self._published: list[int] = []
        self._since: float | None = None
        self._in_flight = 0
        #: Something was sent since the last time that all was sent at once: it may linger.
        self.lingering = False

    def publish(self, messages: Sequence[Message], seq: int) -> None:
        """Hand over the messages of a committed batch; never raises for a record that can't be sent now."""
        batch = _Sent(seq, len(messages))
        for message, record in zip(messages, records_of(messages), strict=True):
            self._send(record, message.id, batch)

    def poll(self, timeout: float = 0.0) -> None:
        """Serve acknowledgements; with a `timeout`, nothing lingers any more, and they are waited for so long."""
        self.lingering = self.lingering and not timeout
        self._producer.poll(timeout)

    def flush(self, timeout: float) -> int:
        """Wait for acknowledgements; how many are missing."""
        return self._producer.flush(timeout)

    @property
    def in_flight(self) -> int:
        """Messages that Kafka has not acknowledged yet."""
        return self._in_flight

    @property
    def busy(self) -> bool:
        """Messages are under way, or their batches are still to be deleted."""
        return self._in_flight > 0 or bool(self._published)

    def take_published(self, *, all: bool = False) -> list[int]:
        """Batches that are to be deleted now; empty while it is too early, unless `all`."""
        late = self._since is not None and self._clock.monotonic() - self._since >= FORGET_AFTER
        if not (all or late or len(self._published) >= FORGET_AT):
            return []
        taken, self._published, self._since = self._published, [], None
        return taken

    def give_back(self, published: list[int]) -> None:
        """The transaction that was to delete these failed."""
        self._published[:0] = published
        if self._published and self._since is None:
            self._since = self._clock.monotonic()

    def _send(self, record: Outgoing, message_id: str, batch: _Sent) -> None:
        try:
            self._producer.send(record, partial(self._acked, batch, message_id))
        except SegueError as error:
            self._observer.count("publish.deferred")
            self._observer.event("publish.failed", topic=record.topic, error=error)
        else:
            self._in_flight += 1
            self.lingering = True

    def _acked(self, batch: _Sent, message_id: str, error: Exception | None) -> None:
        self._in_flight -= 1
        if error is not None:
            self._observer.count("publish.failed")
            self._observer.event("publish.failed", message=message_id, error=error)
            return
        self._observer.count("published")
        batch.missing -= 1
        if batch.missing:
            return
        self._published.append(batch.seq)
        if self._since is None:
            self._since = self._clock.monotonic()
