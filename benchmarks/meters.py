"""What was used between two moments: CPU time by process, WAL, commits, rows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.real.process import children

_TICK = os.sysconf("SC_CLK_TCK")
_COUNTERS = ("xact_commit", "tup_inserted", "tup_updated", "tup_deleted")


def cpu_seconds(pid: int, *, family: bool = False) -> float:
    """CPU time that a process has used; with `family`, that of its living children and of those it has reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    used = sum(map(int, fields[11:15] if family else fields[11:13])) / _TICK
    return used + (sum(cpu_seconds(child, family=True) for child in children(pid)) if family else 0.0)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All counters at one moment; `at` is the wall clock, which the database on this machine shares."""

    at: float
    cpu: Mapping[str, float]
    wal_bytes: int
    database: Mapping[str, int]


class Meter:
    """Reads the counters of one database's server and of named processes. A context manager."""

    def __init__(self, database_url: str, pids: Mapping[str, int], *, families: frozenset[str] = frozenset()) -> None:
        self._pids = pids
        self._families = families
        self._connection: psycopg.Connection[Any] = psycopg.connect(libpq(database_url), autocommit=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self) -> Reading:
        """Read all of them now. The database's own counters lag by up to a second."""
        counters = ", ".join(_COUNTERS)
        wal = "pg_current_wal_lsn() - '0/0'::pg_lsn"
        query = f"SELECT {wal}, {counters} FROM pg_stat_database WHERE datname = current_database()"
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return Reading(
            at=time.time(),
            cpu={name: cpu_seconds(pid, family=name in self._families) for name, pid in self._pids.items()},
            wal_bytes=int(row[0]),
            database=dict(zip(_COUNTERS, map(int, row[1:]), strict=True)),
        )


def used(first: Reading, last: Reading) -> dict[str, Any]:
    """The difference of two readings: cores by process, WAL bytes, counters of the database."""
    seconds = last.at - first.at
    return {
        "seconds": round(seconds, 3),
        "cores": {name: round((last.cpu[name] - first.cpu[name]) / seconds, 3) for name in first.cpu},
        "wal_bytes": last.wal_bytes - first.wal_bytes,
        "database": {name: last.database[name] - first.database[name] for name in first.database},
    }


def cpu_us(total: Mapping[str, Any], count: int) -> dict[str, float]:
    """Microseconds of CPU by process for each of `count` things; holds where others use the machine, too."""
    return {name: round(share * total["seconds"] / max(1, count) * 1e6, 1) for name, share in total["cores"].items()}


def by_process(figures: Mapping[str, float]) -> str:
    """Figures by process in a line."""
    return ", ".join(f"{name} {value:g}" for name, value in figures.items())


def libpq(url: str) -> str:
    """An SQLAlchemy URL as psycopg reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://")
