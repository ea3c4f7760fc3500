"""Peers and the profiler, in environments of their own under `.real/bench`, made on first use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.place import PLACE, BenchError

HERE = Path(__file__).resolve().parent / "peers"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements-peers.txt"
#: Where npm puts Restate's server; the package of the platform carries the binary.
RESTATE = PLACE / "restate"


def python() -> Path:
    """The Python of the peers' environment. Raises BenchError with pip's words if it can't be made."""
    place = PLACE / "peers"
    mark = place / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not mark.exists() or mark.read_text() != wanted:
        _run([sys.executable, "-m", "venv", str(place)], "a virtual environment")
        _run([str(place / "bin/pip"), "install", "-q", "-r", str(REQUIREMENTS)], "the peers' packages")
        mark.write_text(wanted)
    return place / "bin/python"


def restate_server() -> Path:
    """The binary of Restate's server. Raises BenchError if npm can't install it."""
    found = _restate_binary()
    if found is None:
        if shutil.which("npm") is None:
            raise BenchError("no npm on this machine")
        RESTATE.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(RESTATE)]
        _run([*install, "@restatedev/restate-server@1.7.12"], "Restate's server")
        found = _restate_binary()
    if found is None:
        raise BenchError("the npm package of Restate has no server for this platform")
    return found


def _restate_binary() -> Path | None:
    return next(RESTATE.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"), None)


def script(name: str, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a peer's script in the peers' environment; it prints one JSON line when it is done."""
    log = (PLACE / "logs" / f"{name}.log").open("ab")
    with log:
        return subprocess.Popen(
            [str(python()), str(HERE / f"{name}.py"), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BenchError(f"can't install {what}: {(done.stderr or done.stdout)[-300:]}")
