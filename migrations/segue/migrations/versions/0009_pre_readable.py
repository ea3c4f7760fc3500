"""Views for people: payloads as JSON text, and one row for each thing that happened. No program of ours reads them."""

from __future__ import annotations

from alembic import op

revision = "0009_pre_readable"
down_revision = "0008_pre_standing_partitions"
branch_labels = None
depends_on = None

_SAGA = (
    "CREATE VIEW saga_readable AS SELECT id, definition, version, status, attention, step, waiting_for, attempt,"
    " started_at, updated_at, ended_at, deadline_at, wake_at, error_code, error_message, {input} AS input,"
    " {result} AS result, attributes, run, revision FROM saga"
)
#: PostgreSQL keeps the texts as they are in `json`; `jsonb` would round numbers, and grow.
_POSTGRESQL = (
    _SAGA.format(input="convert_from(input, 'UTF8')::json", result="convert_from(result, 'UTF8')::json"),
    "CREATE VIEW saga_event_readable AS SELECT e.saga_id, e.seq, x.n, e.at, x.body ->> 'e' AS event,"
    " x.body ->> 'step' AS step, x.body AS body FROM saga_event AS e CROSS JOIN LATERAL"
    " json_array_elements(convert_from(e.payload, 'UTF8')::json) WITH ORDINALITY AS x (body, n)",
)
_SQLITE = (
    _SAGA.format(input="CAST(input AS TEXT)", result="CAST(result AS TEXT)"),
    "CREATE VIEW saga_event_readable AS SELECT e.saga_id, e.seq, x.key + 1 AS n, e.at,"
    " json_extract(x.value, '$.e') AS event, json_extract(x.value, '$.step') AS step, x.value AS body"
    " FROM saga_event AS e, json_each(CAST(e.payload AS TEXT)) AS x",
)


def upgrade() -> None:
    for statement in _POSTGRESQL if op.get_context().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    for view in ("saga_event_readable", "saga_readable"):
        op.execute(f"DROP VIEW {view}")
