"""Segue's command line with a wall clock that jumps: `python -m tests.chaos.jumping_clock FILE coordinator run`.

FILE holds the difference in seconds and is read again and again. The product asks the machine for the time at one
place alone, which is replaced, as is Python's own `time.time`. libfaketime 0.9.10 was tried first: under it librdkafka
waits as long as the jump forward is (it is told the false time, but waits by the true one), and `time.sleep` fails
where the monotonic clock is to be left alone; that would test the tool.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from segue import clock

#: Seconds between two looks at FILE.
_LOOK_EVERY = 0.3


class JumpingClock:
    """The nemesis's end of FILE."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """From now on the process's wall clock shows so many seconds more than others do."""
        _write(self.file, seconds)

    @property
    def seen(self) -> int:
        """The difference by which the process's clock is wrong now."""
        seen = _seen(self.file)
        return int(seen.read_text()) if seen.exists() else 0


class WrongClock:
    """The process's end of FILE."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._wrong_by = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._wrong_by

    def time(self) -> float:
        return self.now().timestamp()

    def follow(self) -> None:
        """Look at FILE for ever, and tell the nemesis that the jump has come about."""
        _write(_seen(self._file), 0)
        while True:
            seconds = int(self._file.read_text())
            if timedelta(seconds=seconds) != self._wrong_by:
                self._wrong_by = timedelta(seconds=seconds)
                _write(_seen(self._file), seconds)
            threading.Event().wait(_LOOK_EVERY)


def _seen(file: Path) -> Path:
    return file.with_suffix(".seen")


def _write(file: Path, seconds: int) -> None:
    fresh = file.with_suffix(file.suffix + ".new")
    fresh.write_text(str(seconds))
    fresh.replace(file)


def main() -> None:
    """Runs the command line with the arguments after FILE."""
    from segue.cli.main import main as segue

    wrong = WrongClock(Path(sys.argv.pop(1)))
    threading.Thread(target=wrong.follow, name="wrong-clock", daemon=True).start()
    with patch.object(clock.SystemClock, "now", lambda _self: wrong.now()), patch.object(time, "time", wrong.time):
        segue()


if __name__ == "__main__":
    main()
