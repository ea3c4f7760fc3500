"""One saga as people see it: everything of one moment, on every database."""

from __future__ import annotations

from typing import Any

import pytest

from segue.coordinator import view
from segue.coordinator.reads import Reads, read_saga
from tests.conformance.store_kit import Bench, event, request, saga, write

STARTED = b'[{"e":"started","coordinator":"c","definition":"order","version":1,"input":1}]'


def test_what_is_written_while_a_saga_is_looked_at_is_not_shown_in_parts(
    sql_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sql_bench.store()
    write(store, started=[saga()], events=[event()])
    assert sql_bench.url is not None
    sql_bench.sql("UPDATE saga_event SET payload = " + _bytes(sql_bench, STARTED))
    reads = Reads(sql_bench.url)
    row_of = read_saga

    def then_somebody_asks(connection: Any, saga_id: str) -> Any:
        row = row_of(connection, saga_id)
        store.ask([request(saga_id="o-1", dead_letter_id=None)])
        return row

    monkeypatch.setattr(view, "read_saga", then_somebody_asks)
    assert view.view_saga(reads, "o-1").requests == []
    monkeypatch.undo()
    assert len(view.view_saga(reads, "o-1").requests) == 1
    reads.close()


def _bytes(bench: Bench, value: bytes) -> str:
    return f"'\\x{value.hex()}'::bytea" if bench.kind == "postgres" else f"x'{value.hex()}'"
