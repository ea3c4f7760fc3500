"""Where a worker's jobs run: at once, in the greenlet of its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.activities.runner import Desk, Done, InlineRunner, Job
from tests.simulation.oracles import Violation
from tests.simulation.world import Killed, Process


class SimRunner(InlineRunner):
    """The product survives whatever is raised in a handler; the process's own death, and an objection, end it here.

    Between the two nothing is done: a dead process is told that it is at every boundary that it comes to.
    """

    def __init__(self, desk: Desk, process: Process) -> None:
        super().__init__(desk)
        self._process = process

    def submit(self, job: Job[Any], done: Callable[[Done[Any]], None]) -> None:
        objections = len(Violation.raised)

        def ended(how: Done[Any]) -> None:
            if len(Violation.raised) > objections:
                raise Violation.raised[objections]
            if not self._process.alive:
                raise Killed
            done(how)

        super().submit(job, ended)
