"""Publishing from memory right after the commit; the relay publishes what this process could not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from segue.clock import Clock
from segue.errors import SegueError
from segue.observe import Observer
from segue.outbox.message import Message
from segue.topics.broker import Producer

#: Acknowledged outbox rows are deleted after this many seconds at the latest…
FORGET_AFTER = 0.2
#: …or as soon as there are this many.
FORGET_AT = 2_000


class Publisher:
    """Sends committed messages and knows which of their outbox rows can go. A row that stays is the relay's."""

    def __init__(self, producer: Producer, clock: Clock, observer: Observer) -> None:
        self._producer = producer
        self._clock = clock
        self._observer = observer
        self._published: list[str] = []
        self._since: float | None = None
        self._in_flight = 0

    def publish(self, messages: Iterable[Message]) -> None:
        """Hand over committed messages; never raises for a record that can't be sent now."""
        for message in messages:
            self._send(message)

    def poll(self, timeout: float = 0.0) -> None:
        """Serve acknowledgements."""
        self._producer.poll(timeout)

    def flush(self, timeout: float) -> int:
        """Wait for acknowledgements; how many are missing."""
        return self._producer.flush(timeout)

    @property
    def in_flight(self) -> int:
        """Messages that Kafka has not acknowledged yet."""
        return self._in_flight

    def take_published(self, *, all: bool = False) -> list[str]:
        """Ids whose outbox rows are to be deleted now; empty while it is too early, unless `all`."""
        late = self._since is not None and self._clock.monotonic() - self._since >= FORGET_AFTER
        if not (all or late or len(self._published) >= FORGET_AT):
            return []
        taken, self._published, self._since = self._published, [], None
        return taken

    def give_back(self, published: list[str]) -> None:
        """The transaction that was to delete these failed."""
        self._published[:0] = published
        if self._published and self._since is None:
            self._since = self._clock.monotonic()

    def _send(self, message: Message) -> None:
        try:
            self._producer.send(message.outgoing(), partial(self._acked, message.id))
        except SegueError as error:
            self._observer.count("publish.deferred")
            self._observer.event("publish.failed", topic=message.aggregatetype, error=error)
        else:
            self._in_flight += 1

    def _acked(self, message_id: str, error: Exception | None) -> None:
        self._in_flight -= 1
        if error is not None:
            self._observer.count("publish.failed")
            self._observer.event("publish.failed", message=message_id, error=error)
            return
        self._published.append(message_id)
        self._observer.count("published")
        if self._since is None:
            self._since = self._clock.monotonic()
