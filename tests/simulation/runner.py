"""Where a worker's jobs run: at once, in the greenlet of its process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

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
            for objection in Violation.raised[objections:]:
                if objection.whose is getcurrent():
                    raise objection  # and not one that ended the schedule while this job was frozen
            if not self._process.alive:
                raise Killed
            self._process.finish(lambda: done(how))

        super().submit(job, ended)
