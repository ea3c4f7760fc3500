"""PostgreSQL from the machine's own packages: `python -m tests.real.postgres start|stop|status`."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.real.process import RealPartError, Server, command_line, real_directory

#: Users to run as where we are root, which PostgreSQL refuses; Debian's package makes the first.
UNPRIVILEGED = ("postgres", "nobody")


class Postgres(Server):
    """One PostgreSQL with durable commits. `address` is the SQLAlchemy URL of its admin database."""

    kind = "postgres"
    stop_signal = signal.SIGINT  # "fast": sessions are ended, the data is written

    def __init__(self, name: str = "main", *, port: int | None = None, settings: Sequence[str] = ()) -> None:
        """`settings` are further `name=value` settings of the server."""
        super().__init__(name, port=port)
        self._settings = tuple(settings)

    @classmethod
    def missing(cls) -> str | None:
        if binaries() is None:
            return "no PostgreSQL server on this machine"
        if os.geteuid() == 0 and _unprivileged_user() is None:
            return "no unprivileged user to run PostgreSQL as"
        return None

    @property
    def address(self) -> str:
        return self.url("postgres")

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create an empty database (or a copy of `template`); returns its SQLAlchemy URL."""
        create_database(self.address, name, template=template)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected to it."""
        drop_database(self.address, name)

    def answers(self, port: int) -> bool:
        try:
            with psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _place(self) -> Path:
        place = real_directory() / self.kind
        user = self._user()
        if user is None or _can_enter(user, place):
            return place
        # A checkout below /root is closed to the unprivileged user.
        key = hashlib.sha256(str(place).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"segue-real-{key}" / self.kind

    def _user(self) -> str | None:
        return _unprivileged_user() if os.geteuid() == 0 else None

    def _prepare(self) -> None:
        data = self.home / "data"
        if (data / "PG_VERSION").exists():
            return
        shutil.rmtree(data, ignore_errors=True)
        user = self._user()
        who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        if user:
            shutil.chown(self.home, user)
        options = ["-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync"]
        command = [str(_binary("initdb")), *options]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False, **who)
        if done.returncode:
            raise RealPartError(f"initdb failed: {done.stdout}{done.stderr}")

    def _command(self, port: int) -> Sequence[str]:
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={port}",
            # Paths of sockets are limited to about 100 bytes; a checkout may lie deeper.
            "unix_socket_directories=",
            "max_connections=200",
            "fsync=on",
            "log_line_prefix=%m [%p] %d ",
            *self._settings,
        )
        return [str(_binary("postgres")), "-D", str(self.home / "data"), *(f"--{setting}" for setting in settings)]


def create_database(admin_url: str, name: str, *, template: str = "template1") -> None:
    """Create a database on the server that `admin_url` (SQLAlchemy or libpq form) connects to."""
    with psycopg.connect(_libpq(admin_url), autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


def drop_database(admin_url: str, name: str) -> None:
    """Drop a database if it is there, ending the sessions that use it."""
    with psycopg.connect(_libpq(admin_url), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def binaries() -> Path | None:
    """The directory that holds `initdb` and `postgres`, the newest version if there are several."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if found := shutil.which("pg_config"):
        shown = subprocess.run([found, "--bindir"], capture_output=True, text=True, check=False)
        # Debian's pg_config may be that of libpq-dev alone, which comes without a server.
        places.insert(0, Path(shown.stdout.strip()))
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _version(place: Path) -> int:
    return int(place.parent.name) if place.parent.name.isdigit() else 0


def _binary(name: str) -> Path:
    place = binaries()
    if place is None:
        raise RealPartError("no PostgreSQL server on this machine")
    return place / name


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _unprivileged_user() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0}
    return next((user for user in UNPRIVILEGED if user in known), None)


def _can_enter(user: str, place: Path) -> bool:
    """Whether `user` may pass through every directory above `place` that exists already."""
    entry = pwd.getpwnam(user)
    for directory in place.parents:
        if not directory.exists():
            continue
        status = directory.stat()
        bit = 0o100 if status.st_uid == entry.pw_uid else 0o010 if status.st_gid == entry.pw_gid else 0o001
        if not status.st_mode & bit:
            return False
    return True


if __name__ == "__main__":
    sys.exit(command_line(Postgres, sys.argv[1:]))
