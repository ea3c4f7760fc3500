"""The store ports: what the relay, and what the fence of a participant, need of a database, and no more.

Adapters: `SqlOutboxStore` and `SqlServiceRows` of `segue.outbox.sql` (PostgreSQL, SQLite; MySQL's dialect is provided
for). All moments are the database's, so the clocks of the relays need not agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

import msgspec

from segue.outbox.message import Message
from segue.topics.broker import Outgoing

#: Bytes of payload after which a page of rows that are loaded ends: they are held in memory till Kafka has them.
PAGE_BYTES = 16 * 1024 * 1024


class PendingRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row that waits to be published: what it becomes, or a `fault` that says why it makes no sense."""

    seq: int
    lane: int
    topic: str
    key: str
    record: Outgoing | None
    fault: str = ""


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What is not to be loaded now: whole topics, and single keys of a topic."""

    topics: Collection[str] = ()
    lines: Collection[tuple[str, str]] = ()
    #: Numbers of rows that are held already. A store may hand those over again, if it finds as many others.
    held: Collection[int] = ()


class OutboxStore(Protocol):
    """Every call is one short transaction. Raises StoreUnavailable where the same call may succeed later."""

    def lease(self, owner: str, ttl: timedelta) -> Mapping[int, int]:
        """Renew this owner's lanes, take its fair share of free ones, give up the surplus: lane → fencing token.

        A token grows whenever a lane changes hands; a lane whose token differs from before was lost in between.
        """
        ...

    def load(
        self, owner: str, limit: int, *, memory_first_for: timedelta | None, excluded: Exclusion
    ) -> Sequence[PendingRow]:
        """The oldest rows of the lanes which `owner` holds at this moment, by `seq`; never "after the last one seen".

        At least `limit` of them that are not excluded, if there are as many.

        With `memory_first_for`, commands (`saga_action` invoke or compensate, no `saga_outcome`) younger than that by
        the database's clock are left out: whoever wrote them is publishing them from memory. Of replies nobody is: one
        that has a row was left to the relay.
        """
        ...

    def delete(self, seqs: Sequence[int]) -> None:
        """Remove acknowledged rows; those that are gone already are no error."""
        ...

    def quarantine(self, row: PendingRow, error: str, attempts: int) -> None:
        """Move a row that can never be published to `outbox_quarantine`, in one transaction."""
        ...

    def release(self, owner: str) -> None:
        """Give up all lanes at once, so that another relay need not wait for the lease to end."""
        ...


#: A fence row: its columns, whether this transaction has inserted it, the database's time.
LockedRow: TypeAlias = tuple[Mapping[str, Any], bool, datetime]


class ServiceRows(Protocol):
    """The service's own tables inside one open transaction, which somebody else commits."""

    def lock_inbox_row(self, consumer: str, saga_key: str) -> LockedRow:
        """Insert or lock the fence row."""
        ...

    def update_inbox_row(self, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
        """Change the fence row that this transaction has locked."""
        ...

    def delete_inbox_row(self, consumer: str, saga_key: str) -> None:
        """Take back a fence row that this transaction has just inserted."""
        ...


class GroupRows(ServiceRows, Protocol):
    """The same for many commands at once, and the outbox."""

    def store_details(self, consumer: str, saga_key: str, command_id: str, details: bytes, lease: int) -> bool:
        """Keep a heartbeat's details, while that command is still being handled under this lease; whether it is."""
        ...

    def lock_inbox_rows(self, consumer: str, saga_keys: Sequence[str]) -> Mapping[str, LockedRow]:
        """Lock those of these fence rows that are there, in the order of the keys; the others are new.

        A new one need not be inserted before `write_inbox_rows`: whoever is first with that wins, and the other's
        transaction is rolled back. May wait for others less patiently than `lock_inbox_row` does, and raise a transient
        error instead.
        """
        ...

    def write_inbox_rows(
        self,
        consumer: str,
        *,
        new: Mapping[str, Mapping[str, Any]],
        known: Mapping[str, Mapping[str, Any]],
        unused: Collection[str],
    ) -> None:
        """Write whole `new` rows and the changes of `known` ones; an `unused` one was new, and leaves no trace.

        Raises a transient error where another transaction has inserted a new one meanwhile.
        """
        ...

    def insert_messages(self, messages: Sequence[Message]) -> None:
        """Put messages into the outbox, in this order; one whose id is there already is left as it is."""
        ...
