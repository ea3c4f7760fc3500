"""How the processes in one directory find the broker of a `segue dev` that runs there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Where `segue dev` says how to reach its broker, in the directory it runs in.
BROKER_FILE = Path(".segue/broker.json")


def running_broker() -> str | None:
    """The address of the broker of a `segue dev` that runs in this directory, if one does."""
    found = broker()
    return None if found is None else str(found["bootstrap"])


def write_broker_file(bootstrap: str, identity: str) -> None:
    """Tell other commands in this directory how to reach the broker of this process."""
    make_private(BROKER_FILE.parent)
    content = json.dumps({"bootstrap": bootstrap, "id": identity, "pid": os.getpid()})
    # Renamed into place: nobody may read half of it.
    temporary = BROKER_FILE.with_suffix(f".{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=_private) as file:
        file.write(content)
    temporary.replace(BROKER_FILE)


def make_private(directory: Path) -> None:
    """Make the directory of our own state, for nobody else to read: it holds payloads. Others stay as they are."""
    if directory.name == BROKER_FILE.parent.name:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    else:
        directory.mkdir(parents=True, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Make an empty file that nobody else can read, if it is not there; SQLite gives its journals the same rights."""
    os.close(_private(path, os.O_CREAT | os.O_WRONLY))


def _private(path: str | Path, flags: int) -> int:
    return os.open(path, flags, 0o600)


def broker() -> dict[str, Any] | None:
    """What the file says, as long as that process lives."""
    try:
        content = json.loads(BROKER_FILE.read_text("utf-8"))
        os.kill(int(content["pid"]), 0)
        return {"bootstrap": content["bootstrap"], "id": content["id"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
