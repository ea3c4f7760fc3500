"""Runs a demo as a person does, and looks for what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.real.process import CHECKOUT, wait_until

#: Seconds after which a demo of some dozen sagas hangs, on a machine that does other things as well.
LIMIT = 240.0
#: A variable that every process of one demo inherits.
MARK = "DEMO_UNDER_TEST"


@dataclass(slots=True)
class Demo:
    """One run of `python -m MODULE`, with `--json`."""

    process: subprocess.Popen[str]
    mark: str

    def report(self) -> dict[str, Any]:
        """Wait for its end, which must be a good one; the document that it prints."""
        try:
            out, err = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, err = self.process.communicate()
            raise AssertionError(f"not done after {LIMIT:g} s:\n{err}") from None
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{out}\n{err}"
        assert self.left_running() == []
        document: dict[str, Any] = json.loads(out)
        return document

    def left_running(self) -> list[int]:
        """Processes of this demo that are still there (on Linux; elsewhere nobody tells)."""
        return [pid for pid in _processes() if f"{MARK}={self.mark}".encode() in _environment(pid)]

    def leaves_nothing(self) -> bool:
        """Whether all its processes are gone within some seconds."""
        return wait_until(lambda: not self.left_running(), seconds=20)


def start(module: str, *arguments: str, temporary: Path) -> Demo:
    """Start it; files go to `temporary`."""
    mark = uuid4().hex
    environment = {**os.environ, MARK: mark, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--json", *arguments],
        cwd=CHECKOUT,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return Demo(process, mark)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
