"""The first schema: sagas, their history, offsets, dead letters, requests, audit, and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_pre_initial"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
#: SQLite counts INTEGER keys only.
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TABLES = (
    "saga",
    "saga_event",
    "correlation",
    "definition",
    "consumer_offset",
    "dead_letter",
    "operator_request",
    "audit",
    "outbox",
    "outbox_batch",
    "outbox_lane",
    "outbox_relay",
    "outbox_quarantine",
)


def upgrade() -> None:
    _sagas()
    _names()
    _records()
    _people()
    _outbox()
    if op.get_context().dialect.name == "postgresql":
        _tune_postgresql()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _sagas() -> None:
    """What is known of each saga."""
    op.create_table(
        "saga",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("definition", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.String(length=255), nullable=True),
        sa.Column("tenant", sa.String(length=120), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("input", sa.LargeBinary(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("deadline_at", MOMENT, nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("attention", sa.String(length=20), nullable=False),
        sa.Column("step", sa.String(length=600), nullable=True),
        sa.Column("waiting_for", sa.String(length=600), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("error_class", sa.String(length=255), nullable=True),
        sa.Column("error_code", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("wake_at", MOMENT, nullable=True),
        sa.Column("alarm_at", MOMENT, nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("undriven", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    _indexes_of_sagas()
    op.create_table(
        "saga_event",
        sa.Column("saga_id", sa.String(length=255), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=60), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("message_id", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("saga_id", "seq"),
    )
    op.create_index(
        "saga_event_message",
        "saga_event",
        ["saga_id", "message_id"],
        unique=True,
        postgresql_where=sa.text("message_id IS NOT NULL"),
        sqlite_where=sa.text("message_id IS NOT NULL"),
    )


def _indexes_of_sagas() -> None:
    """Partial ones hold the few sagas that are looked for: what most rows never enter costs them nothing."""
    op.create_index("saga_definition_status", "saga", ["definition", "status"], unique=False)
    op.create_index("saga_started_at", "saga", ["started_at", "id"], unique=False)
    for column, condition in (
        ("attention", "attention <> 'none'"),
        ("deadline_at", "deadline_at IS NOT NULL AND status = 'running'"),
        ("alarm_at", "alarm_at IS NOT NULL"),
    ):
        _partial_index(f"saga_{column}", column, condition)
    _partial_index("saga_undriven", "id", "undriven")


def _partial_index(name: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "saga", [column], unique=False, postgresql_where=where, sqlite_where=where)


def _names() -> None:
    """By which names sagas are found, and which code they run."""
    op.create_table(
        "correlation",
        sa.Column("definition", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.Column("saga_id", sa.String(length=255), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("definition", "name", "value"),
    )
    op.create_table(
        "definition",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=True),
        sa.Column("registered_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", "version"),
    )


def _records() -> None:
    """Where reading goes on, and what could not be applied."""
    op.create_table(
        "consumer_offset",
        sa.Column("coordinator", sa.String(length=120), nullable=False),
        sa.Column("topic", sa.String(length=255), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.Column("topic_id", sa.String(length=60), nullable=False),
        sa.PrimaryKeyConstraint("coordinator", "topic", "partition"),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("topic", sa.String(length=255), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("topic_id", sa.String(length=60), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.LargeBinary(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=False),
        sa.Column("error_class", sa.String(length=255), nullable=False),
        sa.Column("error_message", sa.String(length=1024), nullable=False),
        sa.Column("fingerprint", sa.String(length=16), nullable=False),
        sa.Column("saga_id", sa.String(length=255), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("replays", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("topic", "partition", "offset", "topic_id", "timestamp_ms", name="dead_letter_origin"),
    )
    op.create_index("dead_letter_saga", "dead_letter", ["saga_id"], unique=False)
    op.create_index("dead_letter_state", "dead_letter", ["state", "created_at"], unique=False)


def _people() -> None:
    """What people asked for, and what was done."""
    op.create_table(
        "operator_request",
        sa.Column("id", SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("saga_id", sa.String(length=255), nullable=True),
        sa.Column("dead_letter_id", sa.BigInteger(), nullable=True),
        sa.Column("arguments", sa.LargeBinary(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("operator_request_due", "operator_request", ["not_before", "id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("seq", SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("saga_id", sa.String(length=255), nullable=True),
        sa.Column("subject", sa.String(length=255), nullable=True),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("outcome", sa.String(length=1024), nullable=False),
        sa.Column("request_id", sa.BigInteger(), nullable=True),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )


def _outbox() -> None:
    """The service's outbox, which the coordinator has as well."""
    op.create_table(
        "outbox",
        sa.Column("seq", SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("aggregatetype", sa.String(length=255), nullable=False),
        sa.Column("aggregateid", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("content_type", sa.String(length=100), nullable=False),
        sa.Column("causation_id", sa.String(length=255), nullable=True),
        sa.Column("correlation_id", sa.String(length=255), nullable=True),
        sa.Column("saga_id", sa.String(length=255), nullable=True),
        sa.Column("saga_type", sa.String(length=255), nullable=True),
        sa.Column("saga_step", sa.String(length=255), nullable=True),
        sa.Column("saga_action", sa.String(length=20), nullable=True),
        sa.Column("saga_attempt", sa.Integer(), nullable=True),
        sa.Column("saga_key", sa.String(length=600), nullable=True),
        sa.Column("saga_outcome", sa.String(length=20), nullable=True),
        sa.Column("saga_error", sa.String(length=255), nullable=True),
        sa.Column("deadline", MOMENT, nullable=True),
        sa.Column("reply_to", sa.String(length=255), nullable=True),
        sa.Column("traceparent", sa.String(length=255), nullable=True),
        sa.Column("tracestate", sa.String(length=600), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("outbox_lane_seq", "outbox", ["lane", "seq"], unique=False)
    op.create_index("outbox_saga", "outbox", ["saga_id"], unique=False)
    op.create_table(
        "outbox_batch",
        sa.Column("seq", SERIAL, sa.Identity(always=False), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sagas", sa.JSON(), nullable=False),
        sa.Column("messages", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "outbox_lane",
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("leased_until", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("lane"),
    )
    op.create_table(
        "outbox_relay",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("seen_until", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "outbox_quarantine",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("aggregatetype", sa.String(length=255), nullable=False),
        sa.Column("aggregateid", sa.String(length=255), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.String(length=1024), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("quarantined_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )


def _tune_postgresql() -> None:
    """Tables that live by updates and deletes: room in each page, and vacuum long before a fifth of it is dead."""
    # Half of each page is left to later versions of its rows: they move on together, and find no room otherwise (2.3 of
    # four updates left their page with a fifth, 1.0 with half of it, and that one changes what is indexed).
    op.execute(
        "ALTER TABLE saga SET"
        " (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
    )
    op.execute("ALTER TABLE consumer_offset SET (fillfactor = 50)")
    # A queue: empty most of the time, so what counts is how many rows were deleted, not which share of it.
    op.execute(
        "ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,"
        " autovacuum_vacuum_cost_delay = 0)"
    )
    op.execute(
        "ALTER TABLE outbox_batch SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,"
        " autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0,"
        " toast.autovacuum_vacuum_threshold = 2000, toast.autovacuum_vacuum_cost_delay = 0)"
    )
    # Compressed already.
    op.execute("ALTER TABLE outbox_batch ALTER COLUMN messages SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE saga_event SET (autovacuum_vacuum_insert_scale_factor = 0.1)")
