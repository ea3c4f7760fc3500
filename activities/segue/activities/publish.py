"""Sending what is committed: a reply is on its way until Kafka has it, and till then its command is not done.

A reply has no row in the outbox, for the fence row holds it. Whatever is lost here (the process dies, the broker is
away) is asked for again: the command's offset is not committed before its reply is acknowledged, so the command is
delivered once more, and the fence answers it with the stored reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from segue.activities.outcome import failure, reply_to
from segue.clock import Clock
from segue.errors import InputError, Unavailable
from segue.failpoints import hit
from segue.observe import Observer
from segue.outbox.message import Message
from segue.topics.broker import Acked, Outgoing, Producer
from segue.topics.envelope import Command

#: Seconds after which a reply that the broker could not take is sent again.
RESEND_AFTER = 1.0


class Shelf(Protocol):
    """Puts a message into the outbox, in a transaction of its own; `stored` hears how that went, in any thread."""

    def __call__(self, message: Message, stored: Callable[[BaseException | None], None], /) -> None: ...


@dataclass(slots=True, eq=False)
class _Flight:
    """A reply on its way; a callback of the producer."""

    desk: ReplyPublisher
    command: Command
    reply: Message
    delivered: Callable[[], None]
    #: It stands for a reply that Kafka refuses for good.
    substitute: bool = False

    def __call__(self, error: Exception | None) -> None:
        self.desk.landed(self, error)


class ReplyPublisher:
    """Sends replies until they are delivered; all calls from the loop's thread."""

    def __init__(self, source: str, producer: Producer, shelf: Shelf, clock: Clock, observer: Observer) -> None:
        self._source = source
        self._producer = producer
        self._shelf = shelf
        self._clock = clock
        self._observer = observer
        self._again: deque[_Flight] = deque()
        self._again_at = 0.0
        self._shelved: deque[tuple[_Flight, BaseException | None]] = deque()
        #: Records of which Kafka has said nothing yet, and replies that are sent again soon.
        self.flying = 0
        #: Something was sent since the last time that all was sent at once: it may linger.
        self.lingering = False

    def publish(self, command: Command, reply: Message, delivered: Callable[[], None]) -> None:
        """Send a committed reply; `delivered` is called once nothing can lose it any more.

        What the broker can't take now is sent again. A reply that it refuses for good (too large) gives way to a
        `failure` that proves nothing; what can't be sent as things stand (no such topic) is left to the outbox.
        """
        self.flying += 1
        self._send(_Flight(self, command, reply, delivered))
        hit("worker.after_send")

    def send(self, record: Outgoing, acked: Acked) -> None:
        """Send any record; `acked` hears how it went, in any case."""
        self.flying += 1
        self.lingering = True

        def landed(error: Exception | None) -> None:
            self.flying -= 1
            acked(error)

        try:
            self._producer.send(record, landed)
        except Unavailable as error:
            landed(error)

    def serve(self, patience: float = 0.0) -> bool:
        """Hear acknowledgements, send again what is due; whether anything happened.

        With `patience`, nothing lingers any more, and acknowledgements are waited for so many seconds.
        """
        self.lingering = self.lingering and self.flying > 0 and not patience
        if not self.flying:
            return False
        moved = self._producer.poll(patience) > 0 or bool(self._shelved)
        while self._shelved:
            flight, error = self._shelved.popleft()
            self._end(flight) if error is None else self._later(flight)
        if self._again and self._clock.monotonic() >= self._again_at:
            moved = True
            for _ in range(len(self._again)):
                self._send(self._again.popleft())
        return moved

    def drain(self, timeout: float) -> None:
        """Wait for the acknowledgements still due, at most `timeout` seconds."""
        self._producer.flush(timeout)

    def landed(self, flight: _Flight, error: Exception | None) -> None:
        """What became of a reply that was given to the producer."""
        if error is None:
            self._end(flight)
            return
        self._observer.event("worker.publish.failed", id=flight.reply.id, error=error)
        if isinstance(error, Unavailable):
            self._later(flight)
        elif isinstance(error, InputError) and not flight.substitute:
            self._substitute(flight, error)
        else:
            self._shelf(flight.reply, lambda stored: self._shelved.append((flight, stored)))

    def _send(self, flight: _Flight) -> None:
        self.lingering = True
        try:
            self._producer.send(flight.reply.outgoing(), flight)
        except Unavailable as error:
            self.landed(flight, error)

    def _later(self, flight: _Flight) -> None:
        if not self._again:
            self._again_at = self._clock.monotonic() + RESEND_AFTER
        self._again.append(flight)

    def _substitute(self, flight: _Flight, error: InputError) -> None:
        """Say that there is an answer which can't be told; the stored one stays, and a compensation undoes it."""
        answered = failure("reply_refused", str(error), effect="unknown")
        flight.substitute = True
        flight.reply = reply_to(flight.command, answered, source=self._source, now=flight.reply.created_at)
        self._send(flight)

    def _end(self, flight: _Flight) -> None:
        self.flying -= 1
        flight.delivered()
