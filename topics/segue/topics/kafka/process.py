"""librdkafka is not fork-safe: a client belongs to the process that made it, and says so when used from another one."""

from __future__ import annotations

import os

from segue.errors import UsageError


class OwnProcess:
    """Refuses to work in a forked child."""

    __slots__ = ("_forks", "_pid")

    #: Forks that lie between this process and the first one: counted in the child, as asking for the process's id is a
    #: system call, and that for each record.
    forks = 0

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._forks = OwnProcess.forks

    def check(self) -> None:
        if self._forks != OwnProcess.forks:
            raise UsageError(
                f"this Kafka client belongs to process {self._pid}, it can't be used in {os.getpid()}: "
                "make it after the fork"
            )


def _forked() -> None:
    OwnProcess.forks += 1


os.register_at_fork(after_in_child=_forked)
