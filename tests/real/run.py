"""Run a command with real Kafka, PostgreSQL and MariaDB: `python -m tests.real.run pytest -n auto`.

The command finds them in SEGUE_TEST_KAFKA, SEGUE_TEST_POSTGRES and SEGUE_TEST_MARIADB. A variable that is set already
is left alone, and nothing is started for it. A part that this machine can't run is left out, and said so; with CI=true
that is a failure.
`--sweep` alone stops and removes what runs that were killed have left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from tests.real.kafka import Kafka
from tests.real.mariadb import MariaDb
from tests.real.postgres import Postgres
from tests.real.process import RealPartError, Server, started_at

PARTS: dict[str, type[Server]] = {
    "SEGUE_TEST_POSTGRES": Postgres,
    "SEGUE_TEST_MARIADB": MariaDb,
    "SEGUE_TEST_KAFKA": Kafka,
}


def main(arguments: Sequence[str]) -> int:
    """Start, run, stop; the exit code is the command's, or 2 if a part that must be there isn't."""
    if not arguments:
        print(__doc__)
        return 2
    if arguments == ["--sweep"]:
        for kind in PARTS.values():
            _sweep(kind)
        return 0
    signal.signal(signal.SIGTERM, _leave)
    servers: list[Server] = []
    code = 2
    try:
        environment = _start(servers)
        code = subprocess.run(arguments, env=environment, check=False).returncode
    except RealPartError as error:
        print(f"tests.real.run: {error}", file=sys.stderr)
    finally:
        _stop(servers, keep_logs=code != 0)
    return code if code >= 0 else 128 - code


def _start(servers: list[Server]) -> dict[str, str]:
    environment = dict(os.environ)
    for variable, kind in PARTS.items():
        if environment.get(variable):
            continue
        _sweep(kind)
        if reason := kind.missing():
            if environment.get("CI") == "true":
                raise RealPartError(f"{kind.kind} can't be started: {reason}")
            print(f"tests.real.run: {kind.kind} is left out: {reason}", flush=True)
            continue
        # One instance per run: several runs in one checkout don't stop each other's.
        server = kind(f"run-{os.getpid()}")
        servers.append(server)
        server.start(fresh=True)
        environment[variable] = server.address
        print(f"tests.real.run: {kind.kind} at {server.address}", flush=True)
    return environment


def _stop(servers: Sequence[Server], *, keep_logs: bool) -> None:
    for server in servers:
        if keep_logs:
            server.stop()
            print(f"tests.real.run: {server.kind}'s log is {server.log}", file=sys.stderr)
        else:
            server.remove()


def _sweep(kind: type[Server]) -> None:
    """Remove what runs that were killed, or failed, have left."""
    place = kind().home.parent
    for home in place.glob("run-*"):
        owner = home.name.removeprefix("run-")
        if not owner.isdigit() or started_at(int(owner)) is None:
            kind(home.name).remove()
            shutil.rmtree(home, ignore_errors=True)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
