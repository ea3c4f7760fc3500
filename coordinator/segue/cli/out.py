"""Where a command writes: results to stdout, messages and progress to stderr; all text from elsewhere escaped.

With `--json` stdout holds exactly one JSON document (or, where a command says so, one a line); nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from segue.cli.escape import escape
from segue.settings.durations import format_duration

#: Called with the number of further items done, or with `total=` once it is known.
Advance = Callable[..., None]
Cell = Text | str | int | float | datetime | timedelta | bool | None

_STYLES = {
    "running": "cyan",
    "compensating": "yellow",
    "completed": "green",
    "compensated": "blue",
    "failed": "red",
    "cancelled": "magenta",
    "none": "dim",
    "blocked": "bold red",
    "parked": "bold yellow",
    "deferred": "bold yellow",
    "in_doubt": "bold red",
}

_CHILDREN = ("cyan", "green", "magenta", "blue", "yellow")


class Out:
    """One command's output. `width` fixes the width; else the terminal decides, and a pipe is wide."""

    def __init__(self, *, json: bool = False, width: int | None = None) -> None:
        self.json = json
        piped = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        self._stdout = Console(width=width or piped, highlight=False, markup=False, emoji=False, soft_wrap=False)
        self._stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def document(self, value: Any) -> None:
        """The result of a `--json` run; times as RFC 3339, bytes as base64."""
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode() + "\n")
        sys.stdout.flush()

    def line(self, text: str | Text = "", style: str = "") -> None:
        """One line of the result, for people."""
        self._stdout.print(text if isinstance(text, Text) else Text(escape(text), style=style), soft_wrap=True)

    def page(self, text: str) -> None:
        """Text of our own, as it is: no wrapping, no escaping."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A message beside the result."""
        self._stderr.print(Text(escape(text)))

    def warn(self, text: str) -> None:
        """Something to look at, though the command goes on."""
        self._stderr.print(Text.assemble(("warning: ", "yellow"), escape(text)))

    def child(self, name: str, line: str) -> None:
        """A line that a child process wrote, to stderr, its name before it."""
        colour = _CHILDREN[sum(name.encode()) % len(_CHILDREN)]
        self._stderr.print(Text.assemble((f"{escape(name):<18} │ ", colour), escape(line)))

    def error(self, code: str, message: str) -> None:
        """Why the command ends. With `--json` one JSON object on stderr."""
        if self.json:
            encoded = msgspec.json.encode({"error": {"code": code, "message": message}}).decode()
            sys.stderr.write(encoded + "\n")
            sys.stderr.flush()
            return
        for line in message.splitlines() or [""]:
            self._stderr.print(Text.assemble(("error: ", "bold red"), escape(line)))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Rows under headers."""
        cells = [[cell(value) for value in row] for row in rows]
        # A column that says nothing in any row takes no room.
        kept = [n for n in range(len(headers)) if n == 0 or any(row[n].plain not in ("", "-") for row in cells)]
        headers, cells = [headers[n] for n in kept], [[row[n] for n in kept] for row in cells]
        widths = column_widths([[Text(header) for header in headers], *cells], self._stdout.width)
        if widths is None:
            self._blocks(headers, cells)
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for header, width in zip(headers, widths, strict=True):
            table.add_column(header, overflow="fold", width=width)
        for row in cells:
            table.add_row(*row)
        self._stdout.print(table)

    def _blocks(self, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """Rows one below the other, where the terminal is too narrow for them side by side."""
        for first, *others in rows:
            self._stdout.print(Text.assemble((first.plain, "bold")), soft_wrap=True)
            pairs = [
                (name, value) for name, value in zip(headers[1:], others, strict=True) if value.plain not in ("", "-")
            ]
            table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
            table.add_column(style="dim", no_wrap=True)
            table.add_column(overflow="fold")
            for name, value in pairs:
                table.add_row(f"  {name}", value)
            self._stdout.print(table)

    def facts(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Names and values, one a line; pairs without a value are left out."""
        table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value is not None:
                table.add_row(name, cell(value))
        self._stdout.print(table)

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Advance]:
        """A progress bar on stderr, only on a terminal; elsewhere nothing."""
        if not self._stderr.is_terminal:
            yield _nothing
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._stderr, transient=True) as progress:
            task = progress.add_task(what, total=total)

            def advance(n: int = 1, *, total: int | None = None) -> None:
                progress.update(task, advance=n, total=total)

            yield advance


def column_widths(rows: Sequence[Sequence[Text]], width: int) -> list[int] | None:
    """How wide each column is to be, so that no word is broken; None where that is not possible.

    What is left is given to the columns in order, the shortest of them first: long texts are those that wrap.
    """
    gaps = 2 * (len(rows[0]) - 1)
    natural = [max(row[n].cell_len for row in rows) for n in range(len(rows[0]))]
    if sum(natural) + gaps <= width:
        return natural
    widths = [min(natural[n], max(_longest_word(row[n]) for row in rows)) for n in range(len(natural))]
    left = width - gaps - sum(widths)
    if left < 0:
        return None
    for n in sorted(range(len(natural)), key=natural.__getitem__):
        more = min(left, natural[n] - widths[n])
        widths[n] += more
        left -= more
    return widths


#: Characters of the longest word that is kept whole.
_WORD = 36


def _longest_word(text: Text) -> int:
    """As wide as a command's id at most: longer ones, JSON without a blank, have no place where they break better."""
    return min(_WORD, max((cell_len(word) for word in text.plain.split()), default=0))


def cell(value: Cell) -> Text:
    """A value as a person reads it; statuses in their colour."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, datetime):
        return Text(moment(value))
    if isinstance(value, timedelta):
        return Text(format_duration(value))
    text = escape(value)
    return Text(text, style=_STYLES.get(text, ""))


def moment(at: datetime) -> str:
    """`2026-11-21 11:33:57Z`."""
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def precise(at: datetime) -> str:
    """`2026-11-21 11:33:57.042Z`: what happened within a second has an order and a duration, too."""
    return at.strftime("%Y-%m-%d %H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def relative(at: datetime, now: datetime) -> str:
    """`in 4m`, `3h ago`: the two largest units."""
    late = at < now
    seconds = abs((now - at).total_seconds())
    text = _rough(seconds)
    return f"{text} ago" if late else f"in {text}"


def moment_and_relative(at: datetime | None, now: datetime) -> str | None:
    """`2026-11-21 11:33:57Z (in 4m)`."""
    return None if at is None else f"{moment(at)} ({relative(at, now)})"


def _rough(seconds: float) -> str:
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for n, (unit, size) in enumerate(units):
        if whole >= size:
            text = f"{whole // size}{unit}"
            rest = whole % size
            if rest and n + 1 < len(units) and rest // units[n + 1][1]:
                text += f"{rest // units[n + 1][1]}{units[n + 1][0]}"
            return text
    return "0s"


def _plain(value: Any) -> Any:
    """What msgspec does not know."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def _nothing(n: int = 1, *, total: int | None = None) -> None:
    del n, total
