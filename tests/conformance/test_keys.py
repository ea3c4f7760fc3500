"""Keys are compared byte by byte on every database, and what was written below SQLAlchemy goes with its rejection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from segue import outbox
from segue.activities import Rejected
from tests.unit.activities.kit import DEAD, Base, Charged, Order, Service, command, refund

ALIKE = ["CASE-9", "case-9", "Case-9"]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = create_engine(str(request.getfixturevalue(f"{request.param}_url")))
    yield engine
    engine.dispose()


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("at_once", [True, False])
def test_keys_that_differ_in_the_case_of_a_letter_are_two(engine: Engine, at_once: bool) -> None:
    service = Service(engine)
    for order in ALIKE:
        service.send(command(order))
        if not at_once:
            service.settle()
    service.settle()
    service.send(command("case-9", activity=refund))
    service.settle()
    assert service.outcomes() == ["success"] * 4
    assert service.calls == [*(f"charge {order}" for order in ALIKE), "refund case-9"]
    assert len(service.inbox()) == 3


@pytest.mark.parametrize("mended_by", ["create_all", "the statement in the documentation"])
def test_tables_that_take_two_keys_for_one_stop_their_worker_till_they_are_altered(
    mariadb_url: str, mended_by: str
) -> None:
    engine = create_engine(mariadb_url)
    service = Service(engine)
    run(engine, "ALTER TABLE inbox CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    service.send(command("CASE-9"))
    service.settle()
    service.send(command("case-9"))
    service.settle(20, 1.0)
    assert service.outcomes() == ["success"], "no stored answer of another one's"
    assert not service.broker.records(DEAD)
    if mended_by == "create_all":
        outbox.create_all(engine)
    else:
        run(engine, "ALTER TABLE inbox CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    service.settle(40, 1.0)
    assert service.outcomes() == ["success", "success"]
    assert service.calls.count("charge case-9") == 1
    engine.dispose()


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(engine: Engine) -> None:
    outbox.create_all(engine)
    run(engine, "ALTER TABLE outbox DROP COLUMN source")
    outbox.create_all(engine)
    outbox.create_all(engine)
    assert "source" in {column["name"] for column in inspect(engine).get_columns("outbox")}


def test_what_was_written_with_the_drivers_own_cursor_goes_with_its_rejection(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    service = Service(engine)
    mark, quote = {"sqlite": ("?", '"'), "mysql": ("%s", "`")}.get(engine.dialect.name, ("%s", '"'))

    def behave(ctx: Any, order: Order) -> Charged:
        cursor = ctx.session.connection().connection.cursor()
        columns = f"{quote}order{quote}, amount"
        cursor.execute(f"INSERT INTO booking ({columns}) VALUES ({mark}, {mark})", (order.id, order.total))
        cursor.close()
        if order.id == "o-2":
            raise Rejected("no")
        return Charged("c")

    service.behaviour = behave
    orders = ["o-1", "o-2", "o-3", "o-4"]
    for _ in range(2):
        service.send(*map(command, orders))
        service.settle()
    assert service.outcomes().count("failure:no") == 2
    assert [service.balance(order) for order in orders] == [1, 0, 1, 1]
