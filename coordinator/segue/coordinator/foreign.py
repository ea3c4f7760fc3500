"""The outbox in a service's database, seen from outside: whether somebody publishes what is in it."""

from __future__ import annotations

from sqlalchemy import URL, create_engine, func, select
from sqlalchemy.pool import NullPool

from segue.clock import SYSTEM_CLOCK
from segue.coordinator.queries import GRACE
from segue.coordinator.reads import translated
from segue.outbox.schema import outbox_relay_table, outbox_table
from segue.outbox.search_path import keep_search_path


def outbox_problem(url: URL) -> str | None:
    """What is wrong with the outbox in the database at `url`, if anything is. Raises StoreUnavailable."""
    engine = keep_search_path(create_engine(url, poolclass=NullPool, hide_parameters=True))
    try:
        with translated(url), engine.connect() as connection:
            count, oldest = connection.execute(select(func.count(), func.min(outbox_table.c.created_at))).one()
            seen = connection.execute(select(func.max(outbox_relay_table.c.seen_until))).scalar()
    finally:
        engine.dispose()
    now = SYSTEM_CLOCK.now()
    if oldest is None or oldest > now - GRACE:
        return None
    since = oldest.strftime("%Y-%m-%d %H:%M:%SZ")
    relay = "a relay runs, so it lags or Kafka refuses them" if seen is not None and seen > now else "no relay runs"
    return (
        f"{count:,} messages wait in the outbox of {url.render_as_string()}, the oldest since {since}: {relay} "
        "(`segue relay run`)"
    )
