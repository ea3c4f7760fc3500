from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]

SAGAS = """
from dataclasses import dataclass
from segue.contract import Activity
from segue.saga import Saga, saga

@dataclass(frozen=True)
class Order:
    id: str

charge = Activity("payments.charge", Order, str)
refund = charge.undo("payments.refund")
ship = Activity("shipping.ship", Order, str)

@saga("order")
async def order_saga(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund)
    return await s.call(ship, order)

@saga("careless")
async def careless(s: Saga, order: Order) -> int:
    paid = await s.call(charge, order, compensate=refund, optional=True)
    return len(paid)

ACTIVITIES = {charge: lambda order: "ch-1", ship: lambda order: "p-1"}
"""
TESTS = """
from sagas import ACTIVITIES, Order, careless, order_saga

def test_an_order(segue_explore):
    report = segue_explore(order_saga, input=Order("o-1"), activities=ACTIVITIES, budget=100)
    assert report.coverage == 1.0

def test_a_careless_order(segue_explore):
    segue_explore(careless, input=Order("o-1"), activities=ACTIVITIES)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sagas.py").write_text(SAGAS)
    (tmp_path / "test_sagas.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "segue.testing.plugin", "-p", "no:cacheprovider", *options]
    # Without what else is installed: other plugins cost more than these tests.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_explorations_are_summed_up_and_violations_fail_the_test(project: Path) -> None:
    done = run(project, "-q")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "order v1: 100 runs, 0 violations  (test_sagas.py::test_an_order)" in done.stdout
    assert "[code] the saga's code fails: TypeError" in done.stdout
    assert "again with: only='2:refused'" in done.stdout
    assert "careless v1: " in done.stdout


def test_the_json_of_a_failing_exploration_is_in_the_file_and_not_on_the_terminal(project: Path) -> None:
    file = project / "reports" / "explored.json"
    done = run(project, "-q", f"--segue-explore-json={file}")
    assert done.returncode == 1
    assert '"violations"' not in done.stdout
    reports = {report["saga"]: report for report in json.loads(file.read_text())}
    assert reports["careless"]["violations"][0]["key"] == "2:refused"
    assert len(reports["order"]["cases"]) == reports["order"]["runs"] == 100


def test_budget_and_file_come_from_the_command_line_also_with_workers(project: Path) -> None:
    file = project / "explored.json"
    options = (
        "--segue-explore-budget=25",
        f"--segue-explore-json={file}",
        "-p",
        "xdist",
        "-n1",
        "-k",
        "an_order",
        "-v",
    )
    done = run(project, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every fault at every step: no" in done.stdout
    (report,) = json.loads(file.read_text())
    assert (report["test"], report["saga"], report["runs"]) == ("test_sagas.py::test_an_order", "order", 25)


def test_runs_without_sagas_are_not_slowed_down(project: Path) -> None:
    (project / "test_sagas.py").write_text(
        "import sys\n"
        "def test_nothing() -> None:\n"
        "    heavy = {'confluent_kafka', 'sqlalchemy', 'msgspec', 'segue.saga', 'segue.outbox', 'segue.activities'}\n"
        "    assert 'segue.testing.plugin' in sys.modules\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    done = run(project, "-q")
    assert done.returncode == 0, done.stdout
    assert "explorations" not in done.stdout


def test_testing_sagas_needs_no_kafka_client_and_no_database() -> None:
    program = (
        "import sys, segue.testing as t\n"
        "t.SagaTest, t.given, t.replay\n"
        "assert not {'confluent_kafka', 'sqlalchemy', 'segue.activities'} & set(sys.modules), 'heavy'\n"
        "t.explore\n"
        "assert not {'confluent_kafka', 'segue.coordinator'} & set(sys.modules), 'heavy'\n"
        "assert all(hasattr(t, name) for name in t.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_that_do_not_exist_are_not_imported() -> None:
    import segue.testing

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        segue.testing.nothing  # noqa: B018 - the look-up is what is tested


def test_the_plugin_is_an_entry_point() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["pytest11"].values()) == ["segue.testing.plugin"]
