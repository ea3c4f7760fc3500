"""The tables a service's own database gets: `outbox`, `outbox_lane`, `outbox_relay`, `outbox_quarantine`, `inbox`.

`target_metadata = [Base.metadata, segue.outbox.metadata]` hands them to the service's own Alembic; the coordinator's
database has the first four as well.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.dialects import mysql

from segue.limits import MAX_KEY_LENGTH

metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime with microseconds on every database; naive text on those without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


#: Integer primary keys that count by themselves: SQLite only does so for INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")
#: Payloads are validated bytes, never JSONB: JSONB accepts what Python can't read back.
Bytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

#: Keys are compared byte by byte: with the usual collations of MySQL `CASE-9` and `case-9` would be one fence.
MYSQL_COLLATION = "utf8mb4_bin"
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{name}": value
    for dialect in ("mysql", "mariadb")
    for name, value in (("charset", "utf8mb4"), ("collate", MYSQL_COLLATION))
}

outbox_table = Table(
    "outbox",
    metadata,
    Column("seq", Serial, Identity(always=False), primary_key=True),
    Column("id", Uuid(as_uuid=False), nullable=False, unique=True),
    Column("lane", SmallInteger, nullable=False),
    Column("aggregatetype", String(255), nullable=False),
    Column("aggregateid", String(MAX_KEY_LENGTH), nullable=False),
    Column("type", String(255), nullable=False),
    Column("payload", Bytes),
    Column("content_type", String(100), nullable=False),
    Column("source", String(255)),
    Column("causation_id", String(255)),
    Column("correlation_id", String(255)),
    Column("saga_id", String(255)),
    Column("saga_type", String(255)),
    Column("saga_step", String(255)),
    Column("saga_action", String(20)),
    Column("saga_attempt", Integer),
    Column("saga_key", String(MAX_KEY_LENGTH)),
    Column("saga_outcome", String(20)),
    Column("saga_error", String(255)),
    Column("deadline", Moment),
    Column("reply_to", String(255)),
    Column("traceparent", String(255)),
    Column("tracestate", String(600)),
    Column("headers", JSON(none_as_null=True)),
    Column("created_at", Moment, nullable=False),
    Index("outbox_lane_seq", "lane", "seq"),
    Index("outbox_saga", "saga_id"),
    **_OPTIONS,
)

#: Rows that the relay could not publish with its last try; a person looks at them.
outbox_quarantine_table = Table(
    "outbox_quarantine",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("aggregatetype", String(255), nullable=False),
    Column("aggregateid", String(MAX_KEY_LENGTH), nullable=False),
    Column("message", Bytes, nullable=False),
    Column("error", String(1024), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("quarantined_at", Moment, nullable=False),
    **_OPTIONS,
)

#: Who publishes which lane until when; a lease is a hint that keeps order, duplicates are harmless.
outbox_lane_table = Table(
    "outbox_lane",
    metadata,
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", String(255), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("leased_until", Moment, nullable=False),
    **_OPTIONS,
)

#: The relays that are alive: lanes are shared out among them evenly.
outbox_relay_table = Table(
    "outbox_relay",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("seen_until", Moment, nullable=False),
    **_OPTIONS,
)

#: The participant's fence (design §6): one row per (consumer, occurrence), locked first by invoke and by compensate.
inbox_table = Table(
    "inbox",
    metadata,
    Column("consumer", String(120), primary_key=True),
    Column("saga_key", String(MAX_KEY_LENGTH), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("invoke_id", String(255)),
    # success, failure, retry, pending; `unknown` for a negative reply that could not prove that nothing happened
    Column("invoke_outcome", String(20)),
    Column("invoke_reply", Bytes),
    Column("compensate_id", String(255)),
    Column("compensate_attempt", Integer, nullable=False, default=0),
    Column("compensate_outcome", String(20)),
    Column("compensate_reply", Bytes),
    Column("tombstone", Boolean, nullable=False, default=False),
    Column("details", Bytes),
    # Counts the deliveries that were begun outside of a transaction: only the newest one may answer.
    Column("lease", Integer, nullable=False, default=0, server_default="0"),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index("inbox_updated_at", "updated_at"),
    **_OPTIONS,
)
