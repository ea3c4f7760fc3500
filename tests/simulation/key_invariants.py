"""Keys of commands, and whose a saga is."""

from __future__ import annotations

from segue.ids import saga_key
from segue.topics.broker import Record
from tests.simulation.oracles import Oracle, Oracles, header


class FENCEKEY(Oracle):
    """A command has the fence key of its coordinator, saga and occurrence; all of an occurrence lie in one line."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: Fence key -> (topic, key of the record).
        self.lines: dict[str, tuple[str, bytes | None]] = {}

    def append(self, record: Record, message_id: str | None) -> None:
        if not record.topic.endswith(".commands") or self.all.system.forged(record):
            return
        known = self.all.shadow.commands.get(message_id or "")
        if known is None:
            return
        saga, step, _, _ = known
        assert saga.started is not None
        key = header(record.headers, "ce_sagakey") or ""
        if key != saga_key(saga.started.coordinator, saga.id, step.name):
            self.fail(f"{message_id}, a command of {step.name} of {saga.id}, has the key {key}")
        line = self.lines.setdefault(key, (record.topic, record.key))
        if line != (record.topic, record.key):
            self.fail(f"{key} lies in the line of {record.key!r}, and before in that of {line[1]!r}")
