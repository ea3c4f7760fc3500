"""What was done to the system and asked of it, line by line: all that the checker knows besides the databases."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class History:
    """Appends JSON lines; several processes may write one file, for each line is one write to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def close(self) -> None:
        os.close(self._file)

    def write(self, what: str, **values: Any) -> None:
        """`at` is the wall clock in seconds; the databases run on the same machine."""
        line = json.dumps({"at": round(time.time(), 6), "what": what, **values}) + "\n"
        os.write(self._file, line.encode())


def read(path: Path) -> Iterator[Line]:
    """The lines, oldest first. A process killed in the middle of a line leaves one that is none: it is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue
