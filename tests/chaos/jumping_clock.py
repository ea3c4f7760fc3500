"""Segue's command line with a wall clock that jumps: `python -m tests.chaos.jumping_clock FILE coordinator run`.

FILE holds the difference in seconds and is read again and again. The product asks the machine for the time at one
place alone, which is replaced. libfaketime 0.9.10 was tried first: under it librdkafka's waits last as long as the jump
forward is (it is told the false time, but waits by the true one), and `time.sleep` fails where the monotonic clock is
to be left alone; that would test the tool.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from segue import clock


class JumpingClock:
    """The nemesis's end of FILE."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """From now on the process's wall clock shows so many seconds more than others do."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)

    @property
    def seen(self) -> int:
        """The difference that the process has read last."""
        seen = _seen(self._file)
        return int(seen.read_text() or 0) if seen.exists() else 0


#: What the nemesis was told last.
_NOTED: list[int] = []


def jumped(file: Path) -> datetime:
    """The time as it is plus the difference in the file."""
    seconds = int(file.read_text())
    _note(file, seconds)
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _seen(file: Path) -> Path:
    return file.with_suffix(".seen")


def _note(file: Path, seconds: int) -> None:
    """Tell the nemesis that the jump has arrived."""
    if [seconds] != _NOTED:
        _NOTED[:] = [seconds]
        _seen(file).write_text(str(seconds))


def main() -> None:
    """Runs the command line with the arguments after FILE."""
    from segue.cli.main import main as segue

    file = Path(sys.argv.pop(1))
    with patch.object(clock.SystemClock, "now", lambda _self: jumped(file)):
        segue()


if __name__ == "__main__":
    main()
