"""A database that lacks what the worker needs makes its commands wait: no answer, no dead letter, no `failure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from segue.activities import LoopOptions, Rejected, WorkerOptions
from segue.outbox.faults import MYSQL, DatabaseFault, fault_of
from tests.unit.activities.kit import DEAD, Order, Service, command, memory_engine


class Told:
    """An observer that keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def count(self, name: str, n: int = 1) -> None:
        pass

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def without_table(engine: Engine) -> Callable[[], None]:
    run(engine, "ALTER TABLE inbox RENAME TO inbox_gone")
    return lambda: run(engine, "ALTER TABLE inbox_gone RENAME TO inbox")


def without_column(engine: Engine) -> Callable[[], None]:
    run(engine, "ALTER TABLE inbox RENAME COLUMN tombstone TO grave")
    return lambda: run(engine, "ALTER TABLE inbox RENAME COLUMN grave TO tombstone")


def read_only(engine: Engine) -> Callable[[], None]:
    def refuse(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    event.listen(engine, "connect", refuse)
    return lambda: event.remove(engine, "connect", refuse)


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("group", [1, 100])
@pytest.mark.parametrize("spoil", [without_table, without_column, read_only])
def test_commands_wait_till_the_database_is_mended(
    service: Service, spoil: Callable[[Engine], Callable[[], None]], group: int
) -> None:
    told = Told()
    service.worker.observer = told
    service.worker.options = WorkerOptions(loop=LoopOptions(commit_interval=0.0, group=group))
    service.consumer.close()
    service.connect()
    mend = spoil(service.engine)
    service.send(*[command(f"o-{n}") for n in range(5)])
    service.settle(60, 1.0)
    assert (service.outcomes(), service.broker.records(DEAD), service.calls) == ([], [], [])
    assert service.committed() == 0
    alerts = [fields for name, fields in told.events if name == "worker.database.alert"]
    assert alerts
    assert alerts[0]["topic"] == "payments.commands"
    mend()
    service.settle(60, 1.0)
    assert service.outcomes() == ["success"] * 5
    assert service.bookings() == 5


def test_an_answer_that_cannot_be_stored_waits_as_well(service: Service) -> None:
    service.behaviour = rejecting
    run(service.engine, "CREATE TRIGGER t BEFORE UPDATE ON inbox BEGIN SELECT no_such_column FROM booking; END")
    service.send(command())
    service.settle(40, 1.0)
    assert (service.outcomes(), service.broker.records(DEAD)) == ([], [])
    run(service.engine, "DROP TRIGGER t")
    service.settle(40, 1.0)
    assert service.outcomes() == ["failure:no"]


def rejecting(ctx: Any, order: Order) -> Any:
    raise Rejected("no")


class MySqlError(Exception):
    """As PyMySQL raises it."""


MySqlError.__module__ = "pymysql.err"


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (1213, DatabaseFault.PASSES),
        (2006, DatabaseFault.PASSES),
        (1146, DatabaseFault.UNFIT),
        (1290, DatabaseFault.UNFIT),
        (1142, DatabaseFault.UNFIT),
        (1062, DatabaseFault.TAKEN),
        (1406, DatabaseFault.REFUSED),
        (1064, None),
    ],
)
def test_a_number_of_mysql_has_its_meaning(number: int, fault: DatabaseFault | None) -> None:
    assert fault_of(MySqlError(number, "whatever")) is fault
    assert (number in MYSQL) == (fault is not None)
