"""The options that every demo takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a demo is run. Without `bootstrap` and `database_server` it brings its own broker and SQLite files."""

    count: int
    bootstrap: str | None
    database_server: str | None
    keep: Path | None
    json: bool
    faults: bool
    seed: int


def parse(arguments: Sequence[str] | None, *, prog: str, about: str, what: str, default: int, most: int) -> Options:
    """Read the command line; exits with code 2 and a sentence where it makes no sense."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=about)
    parser.add_argument(f"--{what}", type=int, default=default, dest="count", metavar="N", help=f"1 to {most}")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a real Kafka, in place of the embedded broker")
    parser.add_argument(
        "--database-server",
        metavar="URL",
        help="a PostgreSQL in which databases may be created, postgresql+psycopg://…, in place of SQLite files",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave logs and databases, in this new directory")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a report")
    parser.add_argument("--no-faults", action="store_true", help="kill nothing and duplicate nothing")
    parser.add_argument("--seed", type=int, default=1, help="of what is duplicated and which service is killed")
    found = parser.parse_args(arguments)
    if not 1 <= found.count <= most:
        parser.error(f"--{what} is {found.count}; allowed are 1 to {most}")
    if found.keep is not None and found.keep.exists() and any(found.keep.iterdir()):
        parser.error(f"--keep {found.keep}: the directory is not empty")
    return Options(
        count=found.count,
        bootstrap=found.bootstrap,
        database_server=found.database_server,
        keep=found.keep,
        json=found.json,
        faults=not found.no_faults,
        seed=found.seed,
    )
