"""`segue dev` as a user runs it: processes of its own, a project of one's own, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from segue.clock import SYSTEM_CLOCK

#: Seconds within which everything here must happen, on a machine that is busy.
DEADLINE = 60.0

SLOW_SAGA = """
from segue.saga import Retry, Saga, saga, minutes
from datetime import timedelta
from contracts import Order, Charged, charge, refund

@saga("slow", deadline=minutes(10))
async def slow_saga(s: Saga, order: Order) -> Charged:
    return await s.call(charge, order, compensate=refund, retry=Retry(silence=timedelta(seconds=1)))
"""
SLOW_WORKER = """
import os
import time
from contracts import Charged, Order, charge, refund
from segue.activities import Context, Undo, Worker
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

worker = Worker("payments", sessions=sessionmaker(create_engine("sqlite:///slow.db")))
worker.create_tables()

@worker.handle(charge, transaction="manual")
def charge_order(ctx: Context[Session], order: Order) -> Charged:
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return Charged(charge_id="late")

@worker.handle(refund)
def refund_order(ctx: Context[Session], undo: Undo[Order, Charged]) -> None:
    pass
"""


class Project:
    """A directory with a user's modules, and `segue` in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.segue("init", ".")

    def segue(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "segue.cli.main", *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr + self.log()
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.segue(*arguments, "--json", code=code))

    def dev(self, *modules: str) -> None:
        with (self.directory / "dev.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "segue.cli.main", "dev", *modules],
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: (self.directory / ".segue/broker.json").exists() or self.process.poll() is not None)  # type: ignore[union-attr]
        assert self.process.poll() is None, self.log()

    def stop(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self.process = None
        return code

    def kill(self) -> None:
        """Kill everything, as a power cut does."""
        assert self.process is not None
        for number in self.children():
            # Once dev is gone its children end by themselves, some of them before it is their turn here.
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(DEADLINE)
        self.process = None
        wait_until(lambda: not self.children())

    def children(self) -> list[int]:
        """Processes of this project that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "cwd") == str(self.directory):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def log(self) -> str:
        file = self.directory / "dev.log"
        return file.read_text("utf-8") if file.exists() else ""


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = SYSTEM_CLOCK.monotonic() + DEADLINE
    while not condition():
        assert SYSTEM_CLOCK.monotonic() < give_up, "it did not happen in time"
        SYSTEM_CLOCK.sleep(0.05)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    if made.process is not None:
        made.kill()


def test_a_new_project_runs_and_goes_on_after_a_restart(project: Project) -> None:
    project.dev("sagas", "payments:worker")
    done = project.json("saga", "start", "order", "@order.json", "--id", "order-17", "--wait")
    assert (done["status"], done["result"]) == ("completed", {"shelf": "a-7"})
    undone = project.json("saga", "start", "order", "@dear.json", "--id", "order-18", "--wait", code=1)
    assert (undone["status"], undone["error_code"]) == ("compensated", "out_of_stock")
    project.json("saga", "start", "order", "@order.json", "--id", "order-17", "--wait")
    project.segue("saga", "start", "order", "@dear.json", "--id", "order-17", "--wait", code=5)

    assert project.stop() == 0
    assert not (project.directory / ".segue/broker.json").exists()
    project.dev("sagas", "payments:worker")

    shown = project.json("saga", "show", "order-18")
    assert shown["compensated"] == ["payments.charge"]
    again = project.json("saga", "start", "order", '{"id": "19", "account": "ann", "cents": 1}', "--id", "19", "--wait")
    assert again["status"] == "completed"
    assert project.json("verify")["ok"] is True
    assert "drained" in project.log()
    assert "Traceback" not in project.log()


def test_what_the_broker_forgot_is_sent_again_after_everything_was_killed(project: Project) -> None:
    (project.directory / "slow_sagas.py").write_text(SLOW_SAGA, "utf-8")
    (project.directory / "slow.py").write_text(SLOW_WORKER, "utf-8")
    modules = ("slow_sagas", "slow:worker")
    options = ("--set", "coordinator.sagas=slow_sagas")
    project.dev(*modules)
    project.segue("saga", "start", "slow", "@order.json", "--id", "slow-1", *options)
    wait_until((project.directory / "begun").exists)

    project.kill()
    (project.directory / "go").touch()
    (project.directory / ".segue/broker.json").unlink()
    project.dev(*modules)

    done = project.json("saga", "start", "slow", "@order.json", "--id", "slow-1", "--wait", *options)
    # The new broker knew nothing: the command came to it a second time, after silence, or from the outbox where its row
    # had not been deleted yet.
    assert (done["status"], done["result"]) == ("completed", {"charge_id": "late"})


def test_children_end_when_their_parent_is_killed(project: Project) -> None:
    project.dev("sagas", "payments:worker")
    project.json("saga", "start", "order", "@order.json", "--wait")
    assert len(project.children()) == 4
    project.stop(signal.SIGKILL)
    wait_until(lambda: not project.children())


def test_a_worker_with_wrong_code_ends_segue_dev_with_its_reason(project: Project) -> None:
    (project.directory / "payments.py").write_text("1 / 0", "utf-8")
    project.segue("dev", "sagas", "payments:worker", code=2)
    assert project.children() == []


def test_the_demo_accounts_for_every_cent(project: Project) -> None:
    done = project.json("demo", "--orders", "10")
    assert (done["ok"], sum(done["statuses"].values())) == (True, 10)
    assert done["statuses"]["completed"] == 6
