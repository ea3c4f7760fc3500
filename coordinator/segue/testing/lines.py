"""What a service's worker begins with, and when: the commands of one key one after the other, `slots` of them at once.

Partitions do not matter for one worker: it takes what is ready from all of them, and no key is held up by another one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from segue.errors import UsageError
from segue.saga.effects import SendCommand

#: Commands that a worker handles at once, if its options do not say otherwise.
SLOTS: Final = 16


@dataclass(slots=True)
class _Service:
    """One worker's commands; of each key only the first may be ready or running."""

    lines: dict[str, deque[SendCommand]] = field(default_factory=dict)
    ready: deque[SendCommand] = field(default_factory=deque)
    running: int = 0


class Lines:
    """One worker for each service, with so many slots each. Raises UsageError for fewer than one."""

    def __init__(self, slots: int = SLOTS) -> None:
        if slots < 1:
            raise UsageError(f"slots={slots}, a worker handles at least one command at once")
        self._slots = slots
        self._services: dict[str, _Service] = {}

    def arrive(self, command: SendCommand) -> None:
        """A command has come to its service, behind all that came before."""
        service = self._service(command)
        line = service.lines.setdefault(command.record_key, deque())
        line.append(command)
        if len(line) == 1:
            service.ready.append(command)

    def begin(self, command: SendCommand) -> SendCommand | None:
        """The next one that may run at the service of this one; it takes a slot until its `end`."""
        service = self._service(command)
        if not service.ready or service.running >= self._slots:
            return None
        service.running += 1
        return service.ready.popleft()

    def end(self, command: SendCommand) -> None:
        """It is handled: the next of its key may run."""
        service = self._service(command)
        service.running -= 1
        line = service.lines[command.record_key]
        line.popleft()
        if line:
            service.ready.append(line[0])
        else:
            del service.lines[command.record_key]

    def _service(self, command: SendCommand) -> _Service:
        return self._services.setdefault(command.activity.partition(".")[0], _Service())
