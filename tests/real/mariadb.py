"""MariaDB from the machine's own packages: `python -m tests.real.mariadb start|stop|status`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import make_url

from tests.real.postgres import Postgres
from tests.real.process import RealPartError, Server, command_line

_PLACES = ":/usr/sbin:/usr/local/sbin:/usr/libexec"
USER, PASSWORD = "segue", "segue"


class MariaDb(Server):
    """One MariaDB with the usual collation. `address` is the SQLAlchemy URL of a database; others can be created."""

    kind = "mariadb"

    @classmethod
    def missing(cls) -> str | None:
        if _binary("mariadbd") is None or _binary("mariadb-install-db") is None:
            return "no MariaDB server on this machine"
        return Postgres.missing() if os.geteuid() == 0 and Postgres("main")._user() is None else None

    @property
    def address(self) -> str:
        # The driver would make a TLS context for each connection, which takes longer than most tests.
        return f"mysql+pymysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/test?ssl_disabled=true"

    def answers(self, port: int) -> bool:
        try:
            pymysql.connect(
                host="127.0.0.1", port=port, user=USER, password=PASSWORD, connect_timeout=2, ssl_disabled=True
            ).close()
        except pymysql.err.MySQLError:
            return False
        return True

    def _place(self) -> Path:
        return Postgres(self.name).home.parent.parent / self.kind  # where the unprivileged user may go, too

    def _user(self) -> str | None:
        return Postgres(self.name)._user()

    def _prepare(self) -> None:
        data = self.home / "data"
        if (data / "mysql").exists():
            return
        user = self._user()
        who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        if user:
            shutil.chown(self.home, user)
        options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        command = [str(_binary("mariadb-install-db")), *options]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False, **who)
        if done.returncode:
            raise RealPartError(f"mariadb-install-db failed: {done.stdout}{done.stderr}")
        (self.home / "init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS test;\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%';\n"
        )
        os.chmod(self.home / "init.sql", 0o644)

    def _command(self, port: int) -> Sequence[str]:
        return [
            str(_binary("mariadbd")),
            "--no-defaults",
            f"--datadir={self.home / 'data'}",
            f"--init-file={self.home / 'init.sql'}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            f"--socket={self.home.name}.sock",
            f"--pid-file={self.home / 'server.pid'}",
            "--skip-name-resolve",
            # Without it a statement waits for others for 50 s.
            "--innodb-lock-wait-timeout=5",
        ]


def run_statement(url: str, statement: str) -> None:
    """Run one statement on the server that the SQLAlchemy URL names."""
    at = make_url(url)
    connection = pymysql.connect(
        host=at.host or "",
        port=at.port or 0,
        user=at.username,
        password=at.password or "",
        autocommit=True,
        ssl_disabled="ssl_disabled" in at.query,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _binary(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + _PLACES)


if __name__ == "__main__":
    sys.exit(command_line(MariaDb, sys.argv[1:]))
