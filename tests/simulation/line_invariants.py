"""The invariant of a worker's slots and lines: what may be handled beside what, and what need not wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segue.activities.handlers import Prepared
from segue.topics.broker import Partition
from tests.simulation.oracles import Oracle, Oracles, header

if TYPE_CHECKING:
    from tests.simulation.processes import WorkerProcess


@dataclass(slots=True, eq=False)
class JobSeen:
    """A job that a worker has begun, and not heard the end of."""

    batch: Sequence[Prepared]
    #: What the worker knew of each one's partition: after a rebalance nothing waits for what was begun before it.
    homes: Sequence[object]
    #: Offsets of those which were silent for too long, came again, and were answered then.
    overtaken: set[int] = field(default_factory=set)


class LINES(Oracle):
    """No more jobs at once than there are slots, no two of one key, and none of another key waits for a free slot."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: Worker and incarnation → what is under way there, and the commands that it has ever begun.
        self.jobs: dict[tuple[str, int], list[JobSeen]] = {}
        self.known: dict[tuple[str, int], set[str]] = {}

    def begun(self, process: WorkerProcess, batch: Sequence[Prepared]) -> JobSeen:
        assert process.loop is not None
        work = process.loop._work
        job = JobSeen(batch, [work.get(prepared.record.source) for prepared in batch])
        jobs = self.jobs.setdefault((process.name, process.incarnation), [])
        if len(jobs) >= process.slots:
            self.fail(f"{process.name} begins another job where {len(jobs)} fill its {process.slots} slots")
        for other in jobs:
            self._beside(process, job, other)
        self.known.setdefault((process.name, process.incarnation), set()).update(p.command.id for p in batch)
        if jobs:
            self.all.system.world.points["side_by_side"] += 1
        jobs.append(job)
        return job

    def _beside(self, process: WorkerProcess, job: JobSeen, other: JobSeen) -> None:
        for prepared, home in zip(job.batch, job.homes, strict=True):
            for earlier, its_home in zip(other.batch, other.homes, strict=True):
                record, before = prepared.record, earlier.record
                if home is not its_home or record.source != before.source or record.key != before.key:
                    continue
                if before.offset in other.overtaken:
                    continue
                manual = earlier.registration is not None and earlier.registration.transaction == "manual"
                if record.key is None or (manual and prepared.command.id == earlier.command.id):
                    continue  # who repeats what is silent takes it over
                self.fail(f"{process.name} handles @{record.offset} beside @{before.offset}, which has the same key")

    def ended(self, process: WorkerProcess, job: JobSeen) -> None:
        jobs = self.jobs[(process.name, process.incarnation)]
        jobs.remove(job)
        answered = {prepared.command.id: prepared.record for prepared in job.batch}
        for other in jobs:
            for record, again in ((p.record, answered.get(p.command.id)) for p in other.batch):
                if again is not None and again.source == record.source and again.offset > record.offset:
                    other.overtaken.add(record.offset)

    def idle(self, process: WorkerProcess) -> None:
        """A turn has found nothing to do."""
        loop = process.loop
        assert loop is not None
        jobs = self.jobs.get((process.name, process.incarnation), [])
        if not jobs or len(jobs) >= loop._pace.at_once(min(process.slots, loop._options.groups)):
            return
        for partition, work in loop._work.items():
            if work.stalled_until <= process.monotonic():
                self._none_waits(process, partition, jobs)

    def _none_waits(self, process: WorkerProcess, partition: Partition, jobs: Sequence[JobSeen]) -> None:
        assert process.loop is not None
        work = process.loop._work[partition]
        known = self.known[(process.name, process.incarnation)]
        keys = {prepared.record.key for job in jobs for prepared in job.batch if prepared.record.source == partition}
        for offset in work._open:
            record = process.given.get((partition, offset))
            if record is None or offset in work._done or record.key in keys or self.all.system.forged(record):
                continue
            keys.add(record.key)  # the next ones of its line wait for it
            message_id = header(record.headers, "ce_id")
            if message_id is not None and message_id in self.all.published and message_id not in known:
                self.fail(f"{process.name} lets {partition}@{offset} wait for other keys, and has a slot for it")
