"""What a client reads is what coordinators write."""

from __future__ import annotations

from sqlalchemy import Column, Table

from segue.client import tables
from segue.client.rows import ENDED, SagaDescription
from segue.coordinator import schema


def test_the_columns_that_a_client_reads_are_declared_as_the_coordinator_declares_them() -> None:
    theirs = schema.metadata.tables
    for mine in tables.metadata.tables.values():
        assert shapes(mine) == {name: shape for name, shape in shapes(theirs[mine.name]).items() if name in mine.c}


def test_a_description_is_the_row_of_the_clients_table() -> None:
    assert set(SagaDescription.__dataclass_fields__) == set(tables.saga.c.keys())
    assert {"completed", "compensated", "failed", "cancelled"} == ENDED


def shapes(table: Table) -> dict[str, tuple[str, ...]]:
    return {column.name: shape(column) for column in table.columns}


def shape(column: Column[object]) -> tuple[str, ...]:
    return (repr(column.type), str(column.nullable), str(column.primary_key))
