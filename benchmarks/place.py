"""Where a run keeps its files, and how it says that something can't be measured."""

from __future__ import annotations

from tests.real.process import real_directory

PLACE = real_directory() / "bench"


class BenchError(Exception):
    """A scenario could not be measured; the report's row says why."""
