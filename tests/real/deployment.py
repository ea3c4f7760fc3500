"""The processes of a deployment, as an operator starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from segue.clock import fresh_id

#: Seconds within which everything must happen, on a machine that is busy.
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
            "SEGUE_COORDINATOR_SCHEMA": "segue",
            "SEGUE_KAFKA_BOOTSTRAP": kafka,
            "SEGUE_TOPICS_COMMANDS": "{coordinator}.{service}.commands",
            "SEGUE_TOPICS_PARTITIONS": "2",
            "SEGUE_TOPICS_REPLICATION": "1",
        }
        self.name = name
        self.running: list[subprocess.Popen[bytes]] = []

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

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
