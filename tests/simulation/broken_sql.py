"""Mutants of statements, for the tier on which they are run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

import segue.coordinator.statements as statements
import segue.outbox.fences as fences
from segue.coordinator.schema import consumer_offset, saga
from tests.simulation.patching import Patch, mutant


@mutant("[R2] SQL: offsets are moved without looking where they stand", tier="sql", focus="zombies")
def sql_offset_fence(patch: Patch) -> None:
    def move(coordinator: str, partition: Any, start: int, topic_id: str, end: int) -> Any:
        here = statements._of_partition(coordinator, partition)
        return update(consumer_offset).where(here).values(next=end)

    patch(statements, "move_offset", move)


@mutant("[10] SQL: a deadline fires while its command is unpublished", tier="sql")
def sql_unpublished(patch: Patch) -> None:
    def due(coordinator: str, until: Any, limit: int, versions: Any) -> Any:
        found = select(saga).where(saga.c.alarm_at <= until, statements._of_versions(versions))
        return found.order_by(saga.c.alarm_at, saga.c.id).limit(limit)

    patch(statements, "due_sagas", due)


@mutant("SQL: a signal or cancel that comes twice is not recognised", tier="sql", focus="signals")
def sql_seen(patch: Patch) -> None:
    old = statements.seen_of
    patch(statements, "seen_of", lambda pairs: old([("", "") for _ in pairs]))


@mutant("SQL: the answer to an invoke is not written to its fence row", tier="sql")
def sql_stored_reply(patch: Patch) -> None:
    old = fences.update_inbox_row

    def write(connection: Any, consumer: str, saga_key: str, values: Any) -> None:
        kept = {name: value for name, value in values.items() if not name.startswith("invoke_")}
        old(connection, consumer, saga_key, kept)

    patch(fences, "update_inbox_row", write)
