"""The coordinator's tables, beside those of the outbox from `segue.outbox`.

Made by the migrations; a test holds these declarations against their sum.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.sql import text

from segue.limits import MAX_COORDINATOR_LENGTH
from segue.outbox.schema import (
    Bytes,
    Moment,
    Serial,
    outbox_lane_table,
    outbox_quarantine_table,
    outbox_relay_table,
    outbox_table,
)

metadata = MetaData()
outbox = outbox_table.to_metadata(metadata)
outbox_lane = outbox_lane_table.to_metadata(metadata)
outbox_relay = outbox_relay_table.to_metadata(metadata)
outbox_quarantine = outbox_quarantine_table.to_metadata(metadata)

#: The messages of one transaction, published from memory by its writer. `sagas`: whose deadlines wait for them.
#: A number is never given twice, or a late acknowledgement would delete another's row.
outbox_batch = Table(
    "outbox_batch",
    metadata,
    Column("seq", Serial, Identity(always=False), primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sagas", JSON, nullable=False),
    Column("messages", Bytes, nullable=False),
    sqlite_autoincrement=True,
)

saga = Table(
    "saga",
    metadata,
    # What hardly ever changes comes first: of an update PostgreSQL logs what lies between the first and last change.
    Column("id", String(255), primary_key=True),
    Column("definition", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("parent_id", String(255)),
    Column("tenant", String(120), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("input", Bytes, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("deadline_at", Moment),
    Column("status", String(20), nullable=False),
    Column("attention", String(20), nullable=False),
    Column("step", String(600)),
    Column("waiting_for", String(600)),
    Column("result", Bytes),
    Column("error_class", String(255)),
    Column("error_code", String(255)),
    Column("error_message", Text),
    Column("attempt", Integer, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("wake_at", Moment),
    #: Never later than `wake_at`, and indexed in its place: it stays as it is while `wake_at` moves on, so that an
    #: update need not touch the indexes. Who is woken too early goes to sleep again.
    Column("alarm_at", Moment),
    Column("revision", BigInteger, nullable=False),
    Column("undriven", Boolean, nullable=False),
    #: What is older than `first_seq` belongs to earlier runs, and is not read to bring the saga back.
    Column("run", Integer, nullable=False, server_default="1"),
    Column("first_seq", BigInteger, nullable=False, server_default="1"),
    #: Who drives it. Empty: a version of Segue wrote it that knew of one coordinator only; whoever starts finds out.
    Column("coordinator", String(MAX_COORDINATOR_LENGTH), nullable=False, server_default=""),
    #: Why its undo is not done; `error_code` is why it began.
    Column("undo_error_code", String(255)),
    Column("undo_error_message", Text),
    #: By when a signal should have come that it waits for.
    Column("expected_at", Moment),
    Index(
        "saga_alarm_at",
        "alarm_at",
        postgresql_where=text("alarm_at IS NOT NULL"),
        sqlite_where=text("alarm_at IS NOT NULL"),
    ),
    Index(
        "saga_attention",
        "attention",
        postgresql_where=text("attention <> 'none'"),
        sqlite_where=text("attention <> 'none'"),
    ),
    Index(
        "saga_deadline_at",
        "deadline_at",
        postgresql_where=text("deadline_at IS NOT NULL AND status = 'running'"),
        sqlite_where=text("deadline_at IS NOT NULL AND status = 'running'"),
    ),
    Index(
        "saga_expected_at",
        "expected_at",
        postgresql_where=text("expected_at IS NOT NULL"),
        sqlite_where=text("expected_at IS NOT NULL"),
    ),
    Index("saga_undriven", "id", postgresql_where=text("undriven"), sqlite_where=text("undriven")),
    Index(
        "saga_of_nobody",
        "id",
        postgresql_where=text("coordinator = ''"),
        sqlite_where=text("coordinator = ''"),
    ),
    #: The order of lists: newest first.
    Index("saga_started_at", "started_at", "id"),
    Index("saga_definition_status", "definition", "status"),
)

saga_event = Table(
    "saga_event",
    metadata,
    Column("saga_id", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(60), nullable=False),
    Column("at", Moment, nullable=False),
    Column("payload", Bytes, nullable=False),
    Column("message_id", String(255)),
    Index(
        "saga_event_message",
        "saga_id",
        "message_id",
        unique=True,
        postgresql_where=text("message_id IS NOT NULL"),
        sqlite_where=text("message_id IS NOT NULL"),
    ),
)

#: The signs of life that followed a command's first one, the newest in place of all: written with the offset of the
#: message, read when an alarm rings, deleted when the command is settled.
heartbeat = Table(
    "heartbeat",
    metadata,
    Column("command_id", String(255), primary_key=True),
    Column("saga_id", String(255), nullable=False),
    #: When it came, by the database's clock.
    Column("at", Moment, nullable=False),
    #: By the participant's clock, in microseconds; and, as JSON, ids of messages that this time does not give away.
    Column("newest", BigInteger, nullable=False),
    Column("known", Bytes, nullable=False),
    Column("details", Bytes, nullable=False),
    Column("count", Integer, nullable=False),
    Index("heartbeat_saga", "saga_id"),
)

#: `topic_id` changes when a topic is created again; then the stored offset means nothing any more.
consumer_offset = Table(
    "consumer_offset",
    metadata,
    Column("coordinator", String(120), primary_key=True),
    Column("topic", String(255), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next", BigInteger, nullable=False),
    Column("topic_id", String(60), nullable=False),
    #: When a batch that nobody could read was last stepped over: answers may have been in it.
    Column("skipped_at", Moment),
    #: Why reading does not go on; it says so only as long as `next` is `stands_at`.
    Column("stands_at", BigInteger),
    Column("problem", String(1024)),
)

correlation = Table(
    "correlation",
    metadata,
    Column("definition", String(255), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("value", String(255), primary_key=True),
    Column("saga_id", String(255)),
    Column("created_at", Moment, nullable=False),
)

#: `received`: belongs to a live saga and waits to be folded. `parked`: came before its saga. `dead`: nobody can use it.
#: `replayed`, `discarded`: a person has dealt with it.
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", Serial, Identity(always=False), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("topic", String(255), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("topic_id", String(60), nullable=False),
    Column("key", Bytes),
    Column("value", Bytes),
    #: The headers as a JSON array of [name, base64 or null]: order, repetition and bytes are kept.
    Column("headers", Bytes, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("reason", String(60), nullable=False),
    Column("error_class", String(255), nullable=False),
    Column("error_message", String(1024), nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("saga_id", String(255)),
    Column("attempts", Integer, nullable=False),
    Column("replays", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    #: Who has read it; empty: a version of Segue that knew of one coordinator only.
    Column("coordinator", String(MAX_COORDINATOR_LENGTH), nullable=False, server_default=""),
    #: Of a start that is kept until somebody has this saga type.
    Column("definition", String(255)),
    # With its time, for after a truncation another record has the same offset.
    UniqueConstraint("topic", "partition", "offset", "topic_id", "timestamp_ms", name="dead_letter_origin"),
    Index("dead_letter_saga", "saga_id"),
    Index("dead_letter_state", "state", "created_at"),
    Index("dead_letter_parked", "id", postgresql_where=text("state = 'parked'"), sqlite_where=text("state = 'parked'")),
)

#: What coordinators of before wrote, whose it was untold. They go on with it; nobody else writes or reads it.
definition = Table(
    "definition",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", String(64), nullable=False),
    Column("document", Bytes),
    Column("registered_at", Moment, nullable=False),
)

#: The code of each version of a saga, as each coordinator has it.
definition_fingerprint = Table(
    "definition_fingerprint",
    metadata,
    Column("coordinator", String(MAX_COORDINATOR_LENGTH), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", String(64), nullable=False),
    Column("registered_at", Moment, nullable=False),
)

#: What people asked for; a coordinator applies it as it applies a message, and writes `audit` in the same transaction.
operator_request = Table(
    "operator_request",
    metadata,
    Column("id", Serial, Identity(always=False), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("saga_id", String(255)),
    Column("dead_letter_id", BigInteger),
    Column("arguments", Bytes, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    #: `actor` is what somebody says. The role is told by the database (PostgreSQL), the user by the operating system.
    Column("database_role", String(255)),
    Column("system_user", String(255)),
    Index("operator_request_due", "not_before", "id"),
)

#: Append-only and hash-chained: `hash` = sha256(previous hash + the row's canonical JSON). `audit_head` has its end.
audit = Table(
    "audit",
    metadata,
    Column("seq", Serial, Identity(always=False), primary_key=True),
    Column("at", Moment, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(60), nullable=False),
    Column("saga_id", String(255)),
    Column("subject", String(255)),
    Column("reason", String(1024), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("outcome", String(1024), nullable=False),
    Column("request_id", BigInteger),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("database_role", String(255)),
    Column("system_user", String(255)),
)

#: How many lines the audit has, and the hash of the last one: lines cut off at its end are missed. One row, `id` 1.
#: `mac`: HMAC-SHA256 of both under coordinator.audit_key, which who writes to the database need not know.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("lines", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("mac", String(64)),
    Column("at", Moment, nullable=False),
)
