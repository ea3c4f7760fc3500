"""Where a run ran: cores, processor, memory, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.real import kafka

CHECKOUT = Path(__file__).resolve().parent.parent


def machine(database_url: str) -> dict[str, Any]:
    """What a reader must know of the machine to judge absolute figures."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "ram_gib": round(int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)") or 0) / 2**20, 1),
        "python": platform.python_version(),
        "postgresql": _postgres_version(database_url),
        "kafka": kafka.VERSION,
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _first(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.read_text()) if file.exists() else None
    return found[1].strip() if found else ""


def _postgres_version(url: str) -> str:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SHOW server_version")).scalar_one()).split()[0]
    finally:
        engine.dispose()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed
