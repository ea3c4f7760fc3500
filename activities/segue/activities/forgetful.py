"""What a worker without a database remembers with: Segue's tables in a file that ends with the process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from segue.activities.runner import ThreadRunner
from segue.errors import UsageError
from segue.outbox.sql import create_all


class ForgetfulRunner(ThreadRunner):
    """A ThreadRunner over a temporary SQLite file; `close` deletes it, and so does the end of the process."""

    def __init__(self, threads: int, *, call_timeout: timedelta) -> None:
        self._directory = TemporaryDirectory(prefix="segue-", ignore_cleanup_errors=True)
        self._engine = create_engine(f"sqlite:///{Path(self._directory.name) / 'fences.db'}")
        with self._engine.begin() as connection:
            create_all(connection)
        super().__init__(sessionmaker(self._engine), threads, call_timeout=call_timeout)

    def close(self) -> None:
        super().close()
        self._engine.dispose()
        self._directory.cleanup()


class _NoSession:
    """`ctx.session` of a worker without a database: what is written with it would be lost with the process."""

    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError("this worker has no database, so there is no ctx.session; give the worker `sessions=`")


#: What handlers of such a worker are handed.
NO_SESSION = _NoSession()
