"""Heartbeats on their way from handlers to the loop: the last one of each command, one in a second at most."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from segue.activities.handlers import Prepared
from segue.errors import DecodeError, UsageError
from segue.topics.codec import JsonCodec

#: Seconds between two heartbeats of one command that are sent and stored.
INTERVAL = 1.0
#: Longest details, in bytes of JSON.
MAX_DETAILS = 64 * 1024
_STRICT = JsonCodec()


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat that is due."""

    prepared: Prepared
    details: bytes
    lease: int = 0


class Heartbeats:
    """A mailbox: any thread puts in, the loop takes out what is due."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._latest: dict[str, Beat] = {}
        self._sent_at: dict[str, float] = {}

    def put(self, prepared: Prepared, details: Any, lease: int = 0) -> None:
        """Replace the command's waiting heartbeat. Raises UsageError where the details can't be JSON of 64 KiB."""
        try:
            encoded = msgspec.json.encode(details)
        except (TypeError, ValueError) as error:
            raise UsageError(f"details of a heartbeat must be JSON: {error}") from error
        if len(encoded) > MAX_DETAILS:
            raise UsageError(f"details of a heartbeat have {len(encoded)} bytes, allowed are {MAX_DETAILS}")
        try:
            _STRICT.decode(encoded)
        except DecodeError as error:
            raise UsageError(f"details of a heartbeat must be JSON that everybody can read: {error}") from error
        with self._lock:
            waiting = self._latest.get(prepared.command.id)
            if waiting is None or waiting.lease <= lease:  # who was taken over has nothing to say any more
                self._latest[prepared.command.id] = Beat(prepared, encoded, lease)

    def due(self, now: float) -> Sequence[Beat]:
        """Those to be sent at `now` (monotonic seconds); the rest wait, and may be replaced."""
        if not self._latest:
            return ()
        with self._lock:
            ids = [id for id in self._latest if id not in self._sent_at or now - self._sent_at[id] >= self._interval]
            for id in ids:
                self._sent_at[id] = now
            return [self._latest.pop(id) for id in ids]

    def last(self, command_id: str) -> float:
        """When the command's last heartbeat was sent (monotonic seconds); 0.0: none was."""
        return self._sent_at.get(command_id, 0.0)

    def forget(self, command_id: str) -> None:
        """The command was answered."""
        with self._lock:
            self._latest.pop(command_id, None)
            self._sent_at.pop(command_id, None)
