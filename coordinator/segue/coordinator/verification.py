"""Checks that hold at every moment on every healthy database: `segue verify` runs them, in production, too.

Everything is read in pages, each a consistent snapshot, so any number of sagas is checked in bounded memory while
coordinators work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Select

from segue.clock import to_micros
from segue.coordinator import queries
from segue.coordinator.audit import GENESIS, Head, chain
from segue.coordinator.projection import row_of
from segue.coordinator.reads import Reads, audit_of, database_now, saga_of
from segue.coordinator.store import SagaRow
from segue.errors import DecodeError
from segue.saga.fold import fold
from segue.saga.state import SagaState

#: Sagas and audit lines that are read at a time.
PAGE = 200
#: The outcome of a fold is compared with these columns. `wake_at` is a decision of the transition, not part of the
#: fold, `tenant` and `parent_id` are not in the history.
_NOT_FOLDED = frozenset(("wake_at", "tenant", "parent_id"))
_FOLDED = tuple(name for name in SagaRow.__struct_fields__ if name not in _NOT_FOLDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not be. `check` is a stable word."""

    check: str
    message: str
    saga_id: str | None = None


Counted = Callable[[int], object]


def verify(
    reads: Reads, counted: Counted = lambda n: None, *, audit_key: bytes = b"", kept: Head | None = None
) -> Iterator[Violation]:
    """All checks, cheapest first. `counted` is told how many sagas and audit lines have been checked further.

    `audit_key`: what the audit's head must be sealed with; `kept`: a head that was kept elsewhere.
    """
    for name, query, text in _STATEMENTS:
        with reads.snapshot() as connection:
            now = database_now(connection)
            rows = connection.execution_options(yield_per=PAGE).execute(query(now))
            for row in rows:
                values = row._mapping
                yield Violation(check=name, message=text(values, now), saga_id=values.get("saga"))
    yield from _overdue(reads)
    yield from _outbox(reads)
    yield from _folds(reads, counted)
    yield from _audit(reads, counted, audit_key, kept)


def size(reads: Reads) -> int:
    """Sagas and audit lines together, for a progress bar."""
    with reads.snapshot() as connection:
        row = connection.execute(queries.count_all()).one()
    return int(row.sagas) + int(row.audits)


def _lost(row: Any, now: datetime) -> str:
    return (
        f"{row['definition']} is {row['status']} at {row['step'] or 'no step'} since {_moment(row['updated_at'])}, "
        "but nothing will ever move it: no wake-up, no message on its way, no person or signal is waited for"
    )


def _broken(row: Any, now: datetime) -> str:
    if row["count"] is None:
        return f"the row has revision {row['revision']}, but there is no history"
    return (
        f"the history has {row['count']} transitions numbered {row['first']} to {row['last']}, "
        f"expected {row['first_seq']}, where its run begins, to {row['revision']}, the row's revision"
    )


def _standing(row: Any, now: datetime) -> str:
    where = f"{row['topic']} partition {row['partition']}"
    return (
        f"{where} stands at offset {row['next']}, which can't be read ({row['problem']}): nothing behind it is "
        "read, and no deadline fires. The way on is "
        f"`segue topics skip {row['topic']} {row['partition']} {row['next']} --reason …`"
    )


def _quarantined(row: Any, now: datetime) -> str:
    where = f"message {row['id']} to {row['aggregatetype']}, key {row['aggregateid']}"
    return f"{where}: could not be published, in quarantine since {_moment(row['quarantined_at'])}: {row['error']}"


def _unanswered(row: Any, now: datetime) -> str:
    return f"request {row['id']} ({row['kind']}) is due since {_moment(row['not_before'])}; no coordinator has taken it"


def _kept_start(row: Any, now: datetime) -> str:
    return (
        f"its start waits since {_moment(row['created_at'])} for a coordinator that has {row['definition']} "
        f"(dead letter {row['id']}); deploy it, or discard that"
    )


_Statement = tuple[str, Callable[[datetime], Select[*tuple[Any, ...]]], Callable[[Any, datetime], str]]
_STATEMENTS: tuple[_Statement, ...] = (
    ("lost", lambda _: queries.lost_sagas(), _lost),
    ("history", lambda _: queries.broken_histories(), _broken),
    ("reading", lambda _: queries.standing(), _standing),
    ("quarantine", lambda _: queries.quarantined(), _quarantined),
    ("request", queries.overdue_requests, _unanswered),
    ("start", queries.kept_starts, _kept_start),
)


_Code = tuple[str, str, int]


def _overdue(reads: Reads) -> Iterator[Violation]:
    with reads.snapshot() as connection:
        now = database_now(connection)
        rows = connection.execution_options(yield_per=PAGE).execute(queries.overdue_sagas(now))
        moved: dict[_Code, datetime] | None = None
        for row in rows:
            if moved is None:
                moves = connection.execute(queries.last_moves())
                moved = {(one.coordinator, one.definition, one.version): one.at for one in moves}
            yield Violation(check="overdue", saga_id=row.saga, message=_late(row, now, moved))


def _late(row: Any, now: datetime, moved: Mapping[_Code, datetime]) -> str:
    code = f"{row.definition} version {row.version}"
    if row.undriven:
        return f"no coordinator that runs has {code}"
    return f"nobody has woken it since {_moment(row.wake_at)}: {_why_not_woken(row, code, moved)}"


def _why_not_woken(row: Any, code: str, moved: Mapping[_Code, datetime]) -> str:
    """As far as other sagas tell: who has moved them since runs, and would have moved this one if it had its code."""
    own = (row.coordinator, row.definition, row.version)
    same = moved.get(own)
    others = max((at for key, at in moved.items() if key[0] == row.coordinator and key != own), default=None)
    if same is not None and same > row.wake_at:
        at_work = f"a coordinator that has {code} was at work at {_moment(same)}"
        return f"{at_work}; is it behind, is a partition without an owner (`gate.alert` in its log)?"
    if others is not None and others > row.wake_at:
        at_work = f"a coordinator was at work at {_moment(others)}"
        return f"{at_work}, but none that has {code}; deploy that version, too"
    return f"no coordinator runs, or none that has {code}"


def _outbox(reads: Reads) -> Iterator[Violation]:
    waiting = reads.outbox()
    if waiting.oldest is not None and waiting.oldest < reads.now() - queries.GRACE:
        yield Violation(
            check="outbox",
            message=f"{waiting.count:,} messages wait to be published, the oldest since {_moment(waiting.oldest)}; "
            "is Kafka reachable, is a coordinator or relay running?",
        )


def _folds(reads: Reads, counted: Counted) -> Iterator[Violation]:
    """Every row must be what its history says."""
    after = ""
    while True:
        with reads.snapshot() as connection:
            rows = [saga_of(row._mapping) for row in connection.execute(queries.saga_chunk(after, PAGE))]
            if not rows:
                return
            events = connection.execute(queries.histories([row.id for row in rows]))
            states = {saga_id: _fold(saga_id, group) for saga_id, group in groupby(events, lambda event: event.saga_id)}
        for row in rows:
            if row.id in states:
                yield from _compare(row, states[row.id])
        after = rows[-1].id
        counted(len(rows))


def _fold(saga_id: str, events: Any) -> SagaState | str:
    try:
        return fold(saga_id, ((to_micros(event.at), event.payload) for event in events))
    except DecodeError as error:
        return str(error)
    except (AssertionError, LookupError) as error:
        return f"its history contradicts itself: {type(error).__name__}: {error}"


def _compare(row: SagaRow, state: SagaState | str) -> Iterator[Violation]:
    if isinstance(state, str):
        yield Violation(check="fold", saga_id=row.id, message=state)
        return
    wake_at = None if row.wake_at is None else to_micros(row.wake_at)
    folded = row_of(state, wake_at)
    if not row.coordinator:  # a coordinator of the version before has written it
        row = msgspec.structs.replace(row, coordinator=folded.coordinator)
    different = [name for name in _FOLDED if getattr(row, name) != getattr(folded, name)]
    if different:
        differences = "; ".join(
            f"{name} is {_short(getattr(row, name))}, its history says {_short(getattr(folded, name))}"
            for name in different
        )
        yield Violation(check="fold", saga_id=row.id, message=differences)


def _audit(reads: Reads, counted: Counted, key: bytes, kept: Head | None) -> Iterator[Violation]:
    """Every line must follow from the one before it, up to the first that does not, and none may be missing behind."""
    head = reads.audit_head()
    wanted = [(name, one) for name, one in (("the audit's head", head), ("the head kept elsewhere", kept)) if one]
    last: tuple[int, str] = (0, GENESIS)
    while True:
        with reads.snapshot() as connection:
            rows = connection.execute(queries.audit_lines(last[0], PAGE)).all()
        if not rows:
            break
        for row, expected in zip(rows, chain(last, [audit_of(row._mapping) for row in rows]), strict=True):
            if any(row._mapping[name] != expected[name] for name in ("seq", "previous_hash", "hash")):
                yield _broken_audit(f"line {row.seq} of the audit was changed, removed or put in between")
                return
            last = (row.seq, row.hash)
            for name, one in wanted:
                if one.lines == row.seq and one.hash != row.hash:
                    yield _broken_audit(
                        f"line {row.seq} of the audit is another than {name} says: all was written anew"
                    )
        counted(len(rows))
    yield from _end_of_audit(last[0], head, wanted)
    if key and last[0]:
        yield from _seal(reads.audit_head(), last[0], key)


def _end_of_audit(lines: int, head: Head | None, wanted: Sequence[tuple[str, Head]]) -> Iterator[Violation]:
    if head is None and lines:
        yield _broken_audit("the audit has no head: its row was removed, and maybe lines at the end")
    for name, one in wanted:
        if one.lines > lines:
            missing = f"lines {lines + 1:,} to {one.lines:,}" if one.lines > lines + 1 else f"line {one.lines:,}"
            yield _broken_audit(
                f"{missing} of the audit {'are' if one.lines > lines + 1 else 'is'} gone: {name} counts more"
            )


def _seal(head: Head | None, lines: int, key: bytes) -> Iterator[Violation]:
    """Read last: coordinators go on while the lines are read, and only they move it on."""
    if head is not None and not head.sealed_with(key):
        how = "not sealed" if head.mac is None else "sealed with another key, or changed by hand"
        yield _broken_audit(f"the audit's head is {how}; do all coordinators have the same coordinator.audit_key?")
    elif head is not None and head.lines < lines:
        yield _broken_audit(f"{lines - head.lines:,} lines at the end of the audit are not covered by its sealed head")


def _broken_audit(message: str) -> Violation:
    return Violation(check="audit", message=message)


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
