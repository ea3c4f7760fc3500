"""Publishing from memory: committed replies go out at once, and their outbox rows are deleted once Kafka has them.

Whatever is lost here (the process dies, the broker refuses) is still a row of the outbox: the relay sends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segue.clock import Clock
from segue.errors import Unavailable
from segue.failpoints import hit
from segue.observe import Observer
from segue.outbox.message import Message
from segue.topics.broker import Acked, Outgoing, Producer

#: Seconds after which acknowledged rows are deleted at the latest.
DELETE_AFTER = 0.1
#: Acknowledged rows that are deleted at once, however young.
DELETE_BATCH = 200


class MemoryPublisher:
    """Sends what is committed; all calls from the loop's thread."""

    def __init__(
        self, producer: Producer, delete_ids: Callable[[Sequence[str]], None], clock: Clock, observer: Observer
    ) -> None:
        self._producer = producer
        self._delete_ids = delete_ids
        self._clock = clock
        self._observer = observer
        self._acked: list[str] = []
        self._oldest = 0.0
        self._not_before = 0.0
        #: Records of which Kafka has said nothing yet.
        self.flying = 0

    def publish(self, message: Message) -> None:
        """Send a committed row; on failure it is left to the relay."""

        def acked(error: Exception | None) -> None:
            if error is None:
                if not self._acked:
                    self._oldest = self._clock.monotonic()
                self._acked.append(message.id)
            else:
                self._observer.event("worker.publish.failed", id=message.id, error=error)

        self.send(message.outgoing(), acked)
        hit("worker.after_send")

    def send(self, record: Outgoing, acked: Acked) -> None:
        """Send a record; `acked` hears how it went, in any case."""
        self.flying += 1

        def landed(error: Exception | None) -> None:
            self.flying -= 1
            acked(error)

        try:
            self._producer.send(record, landed)
        except Unavailable as error:
            landed(error)

    def serve(self) -> bool:
        """Hear acknowledgements, delete their rows; whether anything happened."""
        heard = self._producer.poll(0.0) if self.flying else 0
        return self._delete(at_once=False) or heard > 0

    def drain(self, timeout: float) -> None:
        """Wait for the acknowledgements still due, at most `timeout` seconds, and delete their rows."""
        self._producer.flush(timeout)
        self._delete(at_once=True)

    def _delete(self, *, at_once: bool) -> bool:
        now = self._clock.monotonic()
        due = len(self._acked) >= DELETE_BATCH or now - self._oldest >= DELETE_AFTER
        if not self._acked or not (at_once or due) or now < self._not_before:
            return False
        ids, self._acked = self._acked, []
        hit("worker.before_forget")
        try:
            self._delete_ids(ids)
        except Exception as error:  # noqa: BLE001 - the rows stay, and are sent once more by the relay: harmless
            self._acked = ids + self._acked
            self._not_before = now + 1.0
            self._observer.event("worker.outbox.failed", rows=len(ids), error=error)
            return False
        return True
