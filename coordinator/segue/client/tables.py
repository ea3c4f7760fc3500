"""What a client reads of the coordinator's tables: these columns and no others.

Declared again and not imported: clients and coordinators meet on the wire and in the database, never in code. A test
holds these declarations against the coordinator's.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, Text

from segue.outbox.schema import Bytes, Moment, Serial

metadata = MetaData()

saga = Table(
    "saga",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("definition", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String(20), nullable=False),
    Column("attention", String(20), nullable=False),
    Column("step", String(600)),
    Column("waiting_for", String(600)),
    Column("input", Bytes, nullable=False),
    Column("result", Bytes),
    Column("error_class", String(255)),
    Column("error_code", String(255)),
    Column("error_message", Text),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("deadline_at", Moment),
    Column("attributes", JSON, nullable=False),
    Column("coordinator", String(120), nullable=False),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("state", String(20), nullable=False),
    Column("headers", Bytes, nullable=False),
    Column("reason", String(60), nullable=False),
    Column("error_message", String(1024), nullable=False),
    Column("saga_id", String(255)),
)
