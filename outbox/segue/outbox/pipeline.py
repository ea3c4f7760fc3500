"""Statements of the hot path in one round trip: prepared once per connection, sent together, answered together.

Not psycopg's own pipeline. That asks for a flush after its last Sync, and PostgreSQL turns the timer of an idle
transaction off with every message that it reads: a coordinator frozen after a pipeline would hold its locks for ever.
Here Sync is the last message, so the timer runs whenever the server waits for us. It also costs a third of the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from select import POLLIN, POLLOUT, poll
from typing import Any

from psycopg import Connection, capabilities
from psycopg.adapt import Transformer
from psycopg.errors import OperationalError, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from segue.errors import RejectedWrite

#: What a statement of the hot path takes; arrays come as literals.
Value = str | bytes | int | datetime | None
#: A statement and its parameters, `$1` and so on.
Call = tuple[str, Sequence[Value]]
#: Stands for the request to forget a prepared statement; no statement is empty.
_CLOSING = ""


class Answer:
    """What one statement gave."""

    __slots__ = ("_driver", "_result")

    def __init__(self, driver: Connection[Any], result: PGresult) -> None:
        self._driver = driver
        self._result = result

    @property
    def count(self) -> int:
        """Rows written or returned."""
        return self._result.command_tuples or 0

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows returned, as Python's own types."""
        if not self._result.ntuples:
            return []
        transformer = Transformer(self._driver)
        transformer.set_pgresult(self._result, format=Format.BINARY)
        return transformer.load_rows(0, self._result.ntuples, tuple)


class Pipeline:
    """The prepared statements of one connection; lives as long as that, used by one thread at a time."""

    def __init__(self, driver: Connection[Any]) -> None:
        self._driver = driver
        self._pg = driver.pgconn
        self._names: dict[str, bytes] = {}
        self._prepared = 0
        #: Of statements that the server may have forgotten; always empty where libpq can't close them.
        self._doubtful: dict[str, bytes] = {}
        self._closes = capabilities.has_send_close_prepared()
        self._readable = poll()
        self._readable.register(self._pg.socket, POLLIN)
        self._either = poll()
        self._either.register(self._pg.socket, POLLIN | POLLOUT)

    def run(self, calls: Sequence[Call]) -> list[Answer]:
        """Run all, in order, up to the first that fails: its error is raised, a psycopg.Error.

        Raises RejectedWrite or UnicodeEncodeError before anything is sent if a text can't be. After an exception that
        is none of these the connection must be thrown away.
        """
        bound = [(text, *_bound(values)) for text, values in calls]
        self._pg.enter_pipeline_mode()
        asked: list[str | None] = []
        for text, values, formats in bound:
            name = self._names.get(text)
            if name is None:
                if text in self._doubtful:
                    # Closing what is not there is no error, unlike DEALLOCATE.
                    self._pg.send_close_prepared(self._doubtful[text])
                    asked.append(_CLOSING)
                name = self._prepare(text)
                asked.append(text)
            self._pg.send_query_prepared(name, values, formats, result_format=Format.BINARY)
            asked.append(None)
        self._pg.pipeline_sync()
        self._send()
        results = [self._receive() for _ in asked]
        self._receive_sync()
        self._pg.exit_pipeline_mode()
        return self._answers(asked, results)

    def doubt(self) -> None:
        """The server may have forgotten what was prepared: prepare it again before it is used, in the same breath.

        An older libpq can't do that: there the statement fails (SQLSTATE 26000), if it is forgotten.
        """
        if self._closes:
            self._doubtful.update(self._names)
            self._names.clear()

    def _prepare(self, text: str) -> bytes:
        name = self._doubtful.pop(text, b"")
        if not name:
            self._prepared += 1
            name = f"segue_{self._prepared}".encode()
        self._names[text] = name
        self._pg.send_prepare(name, text.encode())
        return name

    def _answers(self, asked: Sequence[str | None], results: Sequence[PGresult]) -> list[Answer]:
        failed: PGresult | None = None
        for text, result in zip(asked, results, strict=True):
            if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                continue
            if failed is None:
                failed = result
            if text is not None and text in self._names:
                name = self._names.pop(text)
                if self._closes:
                    self._doubtful[text] = name
        if failed is not None:
            raise error_from_result(failed)
        return [Answer(self._driver, result) for text, result in zip(asked, results, strict=True) if text is None]

    def _send(self) -> None:
        while self._pg.flush():
            # The server may be unable to read on before its answers are read.
            if self._either.poll()[0][1] & ~POLLOUT:
                self._pg.consume_input()

    def _receive(self) -> PGresult:
        """The result of the next statement, and the mark of its end."""
        found: PGresult | None = None
        while True:
            result = self._next()
            if result is None and found is not None:
                return found
            if self._pg.status == ConnStatus.BAD:
                raise OperationalError("the connection broke") if result is None else error_from_result(result)
            found = result

    def _receive_sync(self) -> None:
        result = self._next()
        assert result is not None
        assert result.status == ExecStatus.PIPELINE_SYNC

    def _next(self) -> PGresult | None:
        while self._pg.is_busy():
            self._readable.poll()
            self._pg.consume_input()
        return self._pg.get_result()


def _bound(values: Sequence[Value]) -> tuple[list[bytes | None], list[Format]]:
    sent: list[bytes | None] = []
    formats: list[Format] = []
    for value in values:
        if value is None or isinstance(value, bytes):
            sent.append(value)
            formats.append(Format.BINARY)
            continue
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        # libpq would silently send what comes before it.
        if "\x00" in text:
            raise RejectedWrite("a text holds a NUL character, which PostgreSQL can't store")
        sent.append(text.encode())
        formats.append(Format.TEXT)
    return sent, formats
