"""How far it is: a bar where a person looks on, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

#: Seconds between two lines, where there is no terminal.
LINE_EVERY = 5.0


class Progress:
    """`with Progress("orders", 3000, console) as progress: progress.show(counts, remark)`."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        self._what = what
        self._total = total
        self._console = console
        self._line_at = 0.0
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            columns = ("[bold]{task.description}", "[green]{task.fields[counts]}", "[red]{task.fields[remark]}")
            words, counts, remark = (TextColumn(column) for column in columns)
            bar = Bar(
                words, BarColumn(), MofNCompleteColumn(), counts, TimeElapsedColumn(), remark, console=self._console
            )
            bar.add_task(self._what, total=self._total, counts="", remark="starting")
            bar.start()
            self._bar = bar
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, counts: Mapping[str, int], remark: str) -> None:
        """`counts` by status."""
        under_way = counts.get("running", 0) + counts.get("compensating", 0)
        ended = sum(counts.values()) - under_way
        undone = counts.get("compensated", 0) + counts.get("failed", 0)
        numbers = f"{counts.get('completed', 0)} completed, {undone} compensated, {under_way} waiting"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=ended, counts=numbers, remark=remark)
        elif time.monotonic() >= self._line_at or ended == self._total:
            self._line_at = time.monotonic() + LINE_EVERY
            text = f"{ended}/{self._total} {self._what}: {numbers}{'; ' if remark else ''}{remark}"
            self._console.print(text, soft_wrap=True)
