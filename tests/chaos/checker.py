"""The judge: it reads the history file and the databases, and nothing else; so any run can be judged again.

`python -m tests.chaos.checker HISTORY coordinator=URL bank_a=URL bank_b=URL bank_c=URL driver=URL`
"""

from __future__ import annotations

import base64
import json
import math
import signal
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, Table, create_engine, func, select

from examples.driver.violations import Violation
from examples.transfer.bank import Hold, Movement
from examples.transfer.check import check
from examples.transfer.contracts import BANKS, Transfer
from examples.transfer.workload import expected_statuses, transfers
from segue.coordinator import verification
from segue.coordinator.reads import Reads
from segue.coordinator.schema import (
    consumer_offset,
    dead_letter,
    outbox,
    outbox_batch,
    outbox_quarantine,
    saga,
    saga_event,
)
from segue.outbox.schema import inbox_table
from tests.chaos.damage import FORGED, digest
from tests.chaos.history import Line, read

ENDED = ("completed", "compensated", "failed", "cancelled")
#: Exit codes of who can't start: settings that look wrong (no such topic yet), a server that does not answer.
_REFUSED_TO_START = (2, 3)
#: Seconds after which a process has started: it has read, and ends over nothing that a server does.
STARTING = 60.0
#: Seconds for which a server that is back may still refuse.
AFTERMATH = 15.0
#: How the faults are called that strike servers, or the way to them.
_OF_SERVERS = ("broker_", "postgres_", "black_hole", "commit_reply_lost", "disk_full")
Databases = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the checker needs of a saga's row."""

    status: str
    attention: str
    waiting_for: str | None
    error: str | None
    started_at: datetime
    ended_at: datetime | None


class Story:
    """The history, sorted by what the rules ask of it."""

    def __init__(self, lines: Sequence[Line]) -> None:
        run = next(line for line in lines if line["what"] == "run")
        self.seed, self.most = int(run["seed"]), int(run["most"])
        starts = [line for line in lines if line["what"] == "start"]
        self.attempted = {line["saga"] for line in starts}
        self.acknowledged = {line["saga"] for line in starts if line["phase"] == "acknowledged"}
        self.damaged = {line["digest"] for line in lines if line["what"] == "damaged"}
        self.letters = [line for line in lines if line["what"] == "dead_letter"]
        self.offsets = [line for line in lines if line["what"] == "offsets"]
        #: Ended although nobody had asked them to, and after they were asked to.
        self.exits = [line for line in lines if line["what"] == "exit"]
        self.ends = [line for line in lines if line["what"] == "ended"]
        self.started = [line for line in lines if line["what"] == "started"]
        self.hung = [line["process"] for line in lines if line["what"] == "hangs"]
        self.faults = [line for line in lines if line["what"] == "fault"]

    @property
    def transfers(self) -> list[Transfer]:
        """Those that were asked for; the same seed gives the same."""
        return [one for one in transfers(self.most, self.seed) if one.id in self.attempted]


def judge(lines: Sequence[Line], databases: Databases) -> list[Violation]:
    """All that is not as it must be once everything has been mended and has come to rest."""
    story = Story(lines)
    rows = sagas(databases["coordinator"])
    wanted = story.transfers
    return [
        *_starts(story, rows),
        *_ends(expected_statuses(wanted), rows),
        *check({bank: databases[bank] for bank in BANKS}),
        *_money_follows(wanted, rows, databases),
        *_verified(databases["coordinator"]),
        *_outboxes(databases),
        *_answers(rows, databases),
        *_letters(story, databases["coordinator"]),
        *_offsets(story, databases["coordinator"]),
        *(Violation(rule="who is asked to end ends", subject=name, found="it hung") for name in story.hung),
        *_exits(story),
    ]


def sagas(url: str) -> dict[str, Row]:
    """Every saga's row, by its id."""
    columns = (saga.c.id, saga.c.status, saga.c.attention, saga.c.waiting_for, saga.c.error_message)
    return {
        row.id: Row(
            status=row.status,
            attention=row.attention,
            waiting_for=row.waiting_for,
            error=row.error_message,
            started_at=row.started_at,
            ended_at=row.ended_at,
        )
        for row in _rows(url, select(*columns, saga.c.started_at, saga.c.ended_at))
    }


def recoveries(story: Story, url: str) -> list[float]:
    """For each fault: seconds from its end (for a killed process: from the kill) to the next transition.

    While Kafka or PostgreSQL is down nothing can move: a fault that ends in such a time is over when that is.
    A transition is dated by the database's clock at the beginning of the transaction that committed it. Infinite where
    nothing moved any more: then all was over.
    """
    moments = sorted(row.at.timestamp() for row in _rows(url, select(saga_event.c.at).distinct()))
    outages = list(_outages(story.faults))
    found = []
    for line in story.faults:
        if line["phase"] == ("begin" if line["kind"].startswith("kill_") else "end"):
            over = line["at"]
            for begin, end in outages:
                over = end if begin <= over < end else over
            position = bisect_right(moments, over)
            found.append(moments[position] - over if position < len(moments) else math.inf)
    return found


def _outages(faults: Sequence[Line]) -> Iterator[tuple[float, float]]:
    """When a server was down, in the order of the ends."""
    begun: dict[int, float] = {}
    for line in faults:
        if line["kind"].startswith(("broker_", "postgres_")):
            if line["phase"] == "begin":
                begun[line["number"]] = line["at"]
            else:
                yield begun[line["number"]], line["at"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def _starts(story: Story, rows: Mapping[str, Row]) -> Iterator[Violation]:
    for name in sorted(story.acknowledged - rows.keys()):
        yield Violation(rule="an acknowledged start has a saga", subject=name, found="no saga")
    for name in sorted(rows.keys() - story.attempted):
        yield Violation(rule="nobody starts a saga that was not asked for", subject=name, found=rows[name].status)


def _ends(expected: Mapping[str, str], rows: Mapping[str, Row]) -> Iterator[Violation]:
    for name, row in rows.items():
        said = f"{row.status}, {row.attention}; {row.waiting_for or row.error or ''}".rstrip("; ")
        if row.status not in ENDED or row.attention != "none":
            yield Violation(rule="no saga waits for ever", subject=name, found=said)
        elif name in expected and row.status != expected[name]:
            yield Violation(rule=f"must be {expected[name]}", subject=name, found=said)


def _money_follows(wanted: Sequence[Transfer], rows: Mapping[str, Row], databases: Databases) -> Iterator[Violation]:
    """A completed transfer moved its money once, to everybody; any other one moved nothing that stays."""
    settled: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for bank in BANKS:
        for row in _rows(databases[bank], select(Hold.transfer_id, Hold.amount).where(Hold.state == "settled")):
            settled[row.transfer_id] += row.amount
        query = select(Movement.transfer_id, Movement.amount).where(Movement.kind.in_(("deposit", "take_back")))
        for row in _rows(databases[bank], query):
            paid[row.transfer_id] += row.amount
    for transfer in wanted:
        row = rows.get(transfer.id)
        if row is None or row.status not in ENDED:
            continue  # told of elsewhere
        must = transfer.payer.amount if row.status == "completed" else 0
        if (settled[transfer.id], paid[transfer.id]) != (must, must):
            text = f"{row.status}: payer let go of {settled[transfer.id]}, payees got {paid[transfer.id]}, not {must}"
            yield Violation(rule="money follows the saga", subject=transfer.id, found=text)


def _verified(url: str) -> Iterator[Violation]:
    """What `segue verify` sees: rows are the fold of their history, nothing is lost, the audit is unbroken."""
    reads = Reads(url)
    try:
        for one in verification.verify(reads):
            yield Violation(rule=f"segue verify: {one.check}", subject=one.saga_id or "-", found=one.message)
    finally:
        reads.close()


def _answers(rows: Mapping[str, Row], databases: Databases) -> Iterator[Violation]:
    """A worker's reply stands in its fence row alone until Kafka has it: who asked must have gone on since."""
    for bank in BANKS:
        for fence in _rows(databases[bank], select(inbox_table.c.saga_key)):
            row = rows.get(fence.saga_key.split("/")[1])
            if row is None or row.status not in ENDED:
                found = "no such saga" if row is None else row.status
                yield Violation(rule="an answer is heard", subject=f"{bank}: {fence.saga_key}", found=found)


def _exits(story: Story) -> Iterator[Violation]:
    """Nobody ends unasked, but who is just starting and finds a server down: a supervisor tries that again."""
    for line in story.exits:
        rule = "no process dies" if line["code"] == 1 or line["code"] < 0 else "nobody ends unasked"
        if not _found_a_server_down(line, story):
            yield Violation(rule=rule, subject=line["process"], found=f"code {line['code']}: {line['said']}")
    for line in story.ends:
        # SIGTERM may come before there is anything to drain.
        if line["code"] not in (0, -signal.SIGTERM) and not _found_a_server_down(line, story):
            text = f"code {line['code']}: {line['said']}"
            yield Violation(rule="who is asked to end ends well", subject=line["process"], found=text)


def _found_a_server_down(line: Line, story: Story) -> bool:
    if line["code"] not in _REFUSED_TO_START:
        return False
    began = max((one["at"] for one in story.started if _same(one, line) and one["at"] <= line["at"]), default=0.0)
    if line["at"] - began > STARTING:
        return False
    begun = {one["number"]: one["at"] for one in story.faults if one["phase"] == "begin"}
    ended = {one["number"]: one["at"] for one in story.faults if one["phase"] == "end"}
    servers = {one["number"] for one in story.faults if one["kind"].startswith(_OF_SERVERS)}
    return any(begun[n] <= line["at"] and began <= ended.get(n, math.inf) + AFTERMATH for n in servers)


def _same(one: Line, other: Line) -> bool:
    return bool(one["process"] == other["process"])


def _outboxes(databases: Databases) -> Iterator[Violation]:
    for name, url in databases.items():
        for table in (outbox, outbox_quarantine, *((outbox_batch,) if name == "coordinator" else ())):
            count = _count(url, table)
            if count:
                yield Violation(rule="outboxes are empty", subject=f"{name}.{table.name}", found=f"{count} rows")


def _letters(story: Story, url: str) -> Iterator[Violation]:
    """Only what was damaged on purpose, or answers that, is a dead letter, whoever it was sent to."""
    for row in _rows(url, select(dead_letter)):
        headers = tuple(
            (name, None if text is None else base64.b64decode(text)) for name, text in json.loads(row.headers)
        )
        answers = dict(headers).get("ce_causationid") or b""
        if digest(row.key, row.value, headers) not in story.damaged and not answers.startswith(FORGED):
            text = f"{row.state}, {row.reason}: {row.error_message}"
            yield Violation(rule="only damaged records die", subject=f"dead letter {row.id}", found=text)
        elif row.state in ("received", "parked"):
            yield Violation(rule="no record waits for ever", subject=f"dead letter {row.id}", found=row.state)
    for line in story.letters:
        if line["digest"] not in story.damaged:
            yield Violation(rule="only damaged records die", subject=line["topic"], found=line["reason"])


def _offsets(story: Story, url: str) -> Iterator[Violation]:
    """Everything was read to the end: the coordinator's own offsets, and those that the workers' groups committed."""
    stored = {(row.topic, row.partition): row.next for row in _rows(url, select(consumer_offset))}
    for line in story.offsets:
        key = (line["topic"], line["partition"])
        position = line["committed"] if line["group"] is not None else stored.get(key, 0)
        if position != line["end"]:
            text = f"{position}, and the end is {line['end']}"
            yield Violation(rule="everything is read", subject=f"{key[0]}[{key[1]}]", found=text)


def _rows(url: str, query: Select[*tuple[Any, ...]]) -> list[Any]:
    return list(_ask(url, lambda connection: connection.execute(query).all()))


def _count(url: str, table: Table) -> int:
    return int(_ask(url, lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one()))


def _ask(url: str, question: Any) -> Any:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            answer: Connection = question(connection)
            return answer
    finally:
        engine.dispose()


def main() -> int:
    """Judge a history and its databases once more."""
    lines = list(read(Path(sys.argv[1])))
    violations = judge(lines, dict(pair.split("=", 1) for pair in sys.argv[2:]))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
