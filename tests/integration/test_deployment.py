"""The processes of a deployment, as an operator starts them, on real Kafka and PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.clock import SYSTEM_CLOCK, fresh_id

#: Seconds within which everything here must happen, on a machine that is busy.
DEADLINE = 90.0


class Deployment:
    """`segue` with settings from the environment, as in a container."""

    def __init__(self, directory: Path, kafka: str, database: str) -> None:
        self.directory = directory
        name = f"cli-{fresh_id()[:8]}"
        self.environment = {
            **os.environ,
            "SEGUE_COORDINATOR_NAME": name,
            "SEGUE_COORDINATOR_SAGAS": "sagas",
            "SEGUE_COORDINATOR_DATABASE": database,
            "SEGUE_KAFKA_BOOTSTRAP": kafka,
            "SEGUE_TOPICS_COMMANDS": "{coordinator}.{service}.commands",
            "SEGUE_TOPICS_PARTITIONS": "2",
            "SEGUE_TOPICS_REPLICATION": "1",
        }
        self.name = name
        self.running: list[subprocess.Popen[bytes]] = []
        self.segue("init", ".")

    def segue(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "segue.cli.main", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr + self.log()
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.segue(*arguments, "--json", code=code).stdout)

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "segue.cli.main", *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def log(self) -> str:
        file = self.directory / "log"
        return file.read_text("utf-8") if file.exists() else ""


@pytest.fixture
def deployment(tmp_path: Path, kafka_bootstrap: str, postgres_url: str) -> Iterator[Deployment]:
    made = Deployment(tmp_path, kafka_bootstrap, postgres_url)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_from_an_empty_database_and_no_topics_to_a_completed_saga(deployment: Deployment) -> None:
    refused = deployment.segue("coordinator", "run", code=2)
    assert "run `segue db upgrade`" in refused.stderr
    deployment.segue("db", "upgrade")
    refused = deployment.segue("coordinator", "run", code=1)
    assert f"lacks the topics {deployment.name}.requests, {deployment.name}.replies" in refused.stderr
    assert deployment.json("topics", "verify", code=1)["ok"] is False
    created = deployment.json("topics", "create")["created"]
    assert f"{deployment.name}.payments.commands" in created
    assert deployment.json("topics", "create")["created"] == []
    assert deployment.json("topics", "verify")["ok"] is True

    processes = [
        deployment.run("coordinator", "run"),
        deployment.run("coordinator", "run"),
        deployment.run("worker", "run", "payments:worker"),
    ]
    done = deployment.json("saga", "start", "order", "@order.json", "--id", "order-1", "--wait", "--wait-for", "80s")
    assert done["status"] == "completed"
    assert deployment.json("verify")["ok"] is True

    for process in processes:
        process.send_signal(signal.SIGTERM)
    give_up = SYSTEM_CLOCK.monotonic() + DEADLINE
    assert [process.wait(max(0.1, give_up - SYSTEM_CLOCK.monotonic())) for process in processes] == [0, 0, 0]
    assert deployment.log().count(f"coordinator {deployment.name} is drained") == 2
    assert "worker payments is drained" in deployment.log()
