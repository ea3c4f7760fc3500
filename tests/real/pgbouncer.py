"""PgBouncer from the machine's own packages, in transaction mode: each transaction gets whichever session is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from tests.real.postgres import Postgres
from tests.real.process import Server


class PgBouncer(Server):
    """One pooler before a database of a running PostgreSQL. `address` is the SQLAlchemy URL of that database."""

    kind = "pgbouncer"

    def __init__(
        self,
        name: str = "main",
        *,
        upstream: str,
        port: int | None = None,
        mode: str = "transaction",
        connect_query: str = "",
    ) -> None:
        """`upstream`: the SQLAlchemy URL of the database that it leads to; `connect_query`: said in each session."""
        super().__init__(name, port=port)
        self._upstream = make_url(upstream)
        self._mode = mode
        self._connect_query = connect_query

    @classmethod
    def missing(cls) -> str | None:
        if _binary() is None:
            return "no PgBouncer on this machine"
        return Postgres.missing()

    @property
    def address(self) -> str:
        return self._upstream.set(port=self.port).render_as_string(hide_password=False)

    def answers(self, port: int) -> bool:
        name = self._upstream.database
        try:
            with psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname=name, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _place(self) -> Path:
        return Postgres(self.name).home.parent.parent / self.kind  # where the unprivileged user may go, too

    def _user(self) -> str | None:
        return Postgres(self.name)._user()

    def _prepare(self) -> None:
        if user := self._user():
            shutil.chown(self.home, user)

    def _command(self, port: int) -> Sequence[str]:
        server = f"host={self._upstream.host} port={self._upstream.port}"
        lines = [
            "[databases]",
            f"* = {server}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            f"pool_mode = {self._mode}",
            "default_pool_size = 4",
            # As users set it for the drivers that say such things when they connect.
            "ignore_startup_parameters = extra_float_digits,options",
        ]
        lines[1] = f"{self._upstream.database} = {server} user=postgres"
        if self._connect_query:
            lines[1] += f" connect_query='{self._connect_query}'"
        file = self.home / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        os.chmod(file, 0o644)
        binary = _binary()
        assert binary is not None
        return [binary, str(file)]


def _binary() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
