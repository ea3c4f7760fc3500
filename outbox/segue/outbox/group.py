"""The fence rows of a group of commands: read at once, decided in memory, written at once.

For whoever handles the commands it is the port `ServiceRows`, one command after the other: the second of two commands
of one occurrence sees the row as the first one leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.outbox.store import GroupRows, LockedRow


class StagedRows:
    """`ServiceRows` over rows that are locked already; nothing is written before `write`."""

    def __init__(self, rows: GroupRows, consumer: str, saga_keys: Sequence[str]) -> None:
        self._rows = rows
        self._consumer = consumer
        self._locked: dict[str, LockedRow] = dict(rows.lock_inbox_rows(consumer, saga_keys))
        #: Keys that were asked for: a row that nobody asked for leaves no trace.
        self._asked: set[str] = set()
        self._forgotten: set[str] = set()
        self._changes: dict[str, dict[str, Any]] = {}

    def lock_inbox_row(self, consumer: str, saga_key: str) -> LockedRow:
        row, missing, now = self._locked[saga_key]
        new = missing and (saga_key not in self._asked or saga_key in self._forgotten)
        self._asked.add(saga_key)
        self._forgotten.discard(saga_key)
        return row, new, now

    def update_inbox_row(self, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
        row, missing, now = self._locked[saga_key]
        self._locked[saga_key] = ({**row, **values}, missing, now)
        self._changes.setdefault(saga_key, {}).update(values)

    def delete_inbox_row(self, consumer: str, saga_key: str) -> None:
        self._forgotten.add(saga_key)
        self._changes.pop(saga_key, None)

    def write(self) -> None:
        """Write what was staged; the transaction is still to be committed."""
        missing = {key for key, (_, missing, _) in self._locked.items() if missing}
        self._rows.write_inbox_rows(
            self._consumer,
            new={key: self._locked[key][0] for key in self._changes if key in missing},
            known={key: values for key, values in self._changes.items() if key not in missing},
            unused=missing - self._changes.keys(),
        )
