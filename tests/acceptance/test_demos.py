"""The demos, run as a person runs them: on the embedded pair, and on real Kafka and PostgreSQL."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from examples.orders.expected import expected_statuses
from examples.orders.files import read_orders
from examples.transfer.workload import expected_statuses as expected_of_transfers
from examples.transfer.workload import transfers
from tests.acceptance.demo import Demo, start

#: Enough for every kind of trouble to be among them (a test below holds it to that), few enough for a test.
ORDERS = 150
TRANSFERS = 80


def assert_well(report: dict[str, Any], expected: dict[str, str]) -> None:
    wanted = {status: list(expected.values()).count(status) for status in ("completed", "compensated", "failed")}
    assert {status: report[status] for status in wanted} == wanted
    assert report["waiting"] == 0
    assert report["violations"] == []
    assert report["verify"] == ""
    assert report["well"] is True
    assert report["killed"][1] == "coordinator"
    assert report["duplicate_starts"] > 0
    assert report["duplicate_deliveries"] > 0


def test_orders_survive_crashes_and_duplicates_on_the_embedded_pair(tmp_path: Path) -> None:
    report = start("examples.orders.demo", "--orders", str(ORDERS), temporary=tmp_path).report()
    assert_well(report, expected_statuses(read_orders(ORDERS)))
    assert list(tmp_path.iterdir()) == [], "files are left behind"
    timeline = report["timeline"]
    assert timeline["status"] == "compensated"
    assert timeline["compensated"] == ["stock.reserve", "payments.charge"], "the undo runs in reverse order"
    assert timeline["events"][0]["type"] == "Started"
    assert timeline["events"][-1]["type"] == "Ended"


def test_orders_survive_crashes_and_duplicates_on_kafka_and_postgresql(
    kafka_bootstrap: str, postgres_url: str, tmp_path: Path
) -> None:
    real = ("--bootstrap", kafka_bootstrap, "--database-server", postgres_url)
    report = start("examples.orders.demo", "--orders", str(ORDERS), *real, temporary=tmp_path).report()
    assert_well(report, expected_statuses(read_orders(ORDERS)))
    assert demo_databases(postgres_url, report["run"]) == []


def test_transfers_conserve_the_sum_on_the_embedded_pair(tmp_path: Path) -> None:
    report = start("examples.transfer.demo", "--transfers", str(TRANSFERS), temporary=tmp_path).report()
    assert_well(report, expected_of_transfers(transfers(TRANSFERS)))
    assert list(tmp_path.iterdir()) == [], "files are left behind"


def test_transfers_conserve_the_sum_on_kafka_and_postgresql(
    kafka_bootstrap: str, postgres_url: str, tmp_path: Path
) -> None:
    real = ("--bootstrap", kafka_bootstrap, "--database-server", postgres_url)
    report = start("examples.transfer.demo", "--transfers", str(TRANSFERS), *real, temporary=tmp_path).report()
    assert_well(report, expected_of_transfers(transfers(TRANSFERS)))
    assert demo_databases(postgres_url, report["run"]) == []


def test_the_orders_of_these_tests_meet_every_kind_of_trouble() -> None:
    met = {word for order in read_orders(ORDERS) for word in order.trouble.split()}
    assert met == {word for order in read_orders() for word in order.trouble.split()}
    assert set(expected_statuses(read_orders(ORDERS)).values()) == {"completed", "compensated", "failed"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_demo_that_is_ended_midway_leaves_nothing_running(number: signal.Signals, code: int, tmp_path: Path) -> None:
    demo = start("examples.orders.demo", "--orders", "2000", temporary=tmp_path)
    first_line_of(demo)
    assert len(demo.left_running()) == 6, "the demo, a coordinator and four services"
    demo.process.send_signal(number)
    _, err = demo.process.communicate(timeout=60)
    assert demo.process.returncode == code, err
    assert demo.leaves_nothing(), demo.left_running()


def test_the_number_of_orders_is_checked(tmp_path: Path) -> None:
    demo = start("examples.orders.demo", "--orders", "0", temporary=tmp_path)
    _, err = demo.process.communicate(timeout=60)
    assert demo.process.returncode == 2
    assert "--orders is 0; allowed are 1 to 3000" in err


def test_a_broker_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    demo = start("examples.orders.demo", "--orders", "5", "--bootstrap", "127.0.0.1:1", temporary=tmp_path)
    out, err = demo.process.communicate(timeout=120)
    assert demo.process.returncode == 1
    assert out == ""
    assert "the demo failed" in err
    assert "127.0.0.1:1" in err
    assert demo.leaves_nothing()


def first_line_of(demo: Demo) -> None:
    """Wait for the first line of progress: everything runs by then."""
    assert demo.process.stderr is not None
    for line in demo.process.stderr:
        if "orders:" in line:
            return
    raise AssertionError("the demo ended without a line")


def demo_databases(url: str, run: str) -> list[str]:
    """Databases of this run that are still on the server."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            query = text("SELECT datname FROM pg_database WHERE datname LIKE :name")
            return list(connection.execute(query, {"name": f"segue_demo_{run}%"}).scalars())
    finally:
        engine.dispose()
