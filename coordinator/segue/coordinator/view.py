"""Where is it? One saga as a person wants to see it: what it waits for, what was done, what would be undone.

Made from the fold of its history, which needs neither its code nor its definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from segue.clock import from_micros, to_micros
from segue.coordinator.queries import GRACE, LIVE, DeadLetterFilter
from segue.coordinator.reads import (
    Reads,
    database_now,
    read_audits,
    read_dead_letters,
    read_heartbeats,
    read_history,
    read_requests,
    read_saga,
)
from segue.coordinator.sentences import blocked_by, failure_text, sentence, what_unblocks
from segue.coordinator.signals import SignalView, signals_of
from segue.coordinator.store import AuditEntry, EventRow, HeartbeatRow, OperatorRequest, SagaRow
from segue.errors import DecodeError
from segue.ids import CommandId
from segue.saga import events as e
from segue.saga.fold import fold
from segue.saga.state import SagaState, steps_to_undo
from segue.saga.steps import NEVER, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One thing that the saga waits for. `until` None: no limit."""

    what: str
    until: datetime | None = None
    overdue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoView:
    """The compensation of a step: `planned` until it is issued."""

    activity: str
    status: str
    attempt: int
    command_id: str | None
    error: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step. `attempts` is how many are allowed in total."""

    name: str
    activity: str
    status: str
    attempt: int
    attempts: int
    resends: int
    command_id: str | None
    started_at: datetime
    ended_at: datetime | None
    duration: timedelta
    input: msgspec.Raw
    output: msgspec.Raw
    progress: msgspec.Raw
    #: When the newest of several signs of life came.
    alive_at: datetime | None
    error: str | None
    optional: bool
    readonly: bool
    undo: UndoView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One event of the history."""

    seq: int
    at: datetime
    type: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaView:
    """Everything about one saga. `why` says in a sentence why a person is needed, if one is."""

    row: SagaRow
    now: datetime
    overdue: bool
    why: str | None
    waits: Sequence[Wait] = ()
    steps: Sequence[StepView] = ()
    #: Steps whose compensation is acknowledged, in that order.
    compensated: Sequence[str] = ()
    #: Steps still to be compensated, or that would be if the saga stopped now: in the order of the undo.
    to_compensate: Sequence[str] = ()
    #: Where a blocked saga's code failed: the innermost lines of it, the last one first.
    where: Sequence[str] = ()
    #: Signals that have come, in that order.
    signals: Sequence[SignalView] = ()
    pivot: bool = False
    #: When the saga's deadline rings; the row has it as it was promised.
    deadline_at: datetime | None = None
    stands_still: bool = False
    timeline: Sequence[TimelineEntry] = ()
    requests: Sequence[OperatorRequest] = ()
    audits: Sequence[AuditEntry] = ()
    #: Records that belong to this saga and are not applied, by their state.
    dead_letters: dict[str, list[int]] = field(default_factory=dict)
    #: Why the history could not be read, if so; then only the row is known.
    unreadable: str | None = None


def view_saga(reads: Reads, saga_id: str, *, all_runs: bool = False) -> SagaView:
    """One saga with all that belongs to it; its timeline is that of its present run, or of all. Raises NotFound."""
    letters: dict[str, list[int]] = {}
    with reads.snapshot() as connection:
        now = database_now(connection)
        row = read_saga(connection, saga_id)
        events = read_history(connection, saga_id, all_runs=all_runs)
        heartbeats = read_heartbeats(connection, saga_id)
        requests, audits = read_requests(connection, saga_id), read_audits(connection, saga_id)
        for letter in read_dead_letters(connection, DeadLetterFilter(saga_id=saga_id), 1000, whole=False):
            letters.setdefault(letter.state, []).append(letter.id)
    return make_view(row, events, now, requests=requests, audits=audits, dead_letters=letters, heartbeats=heartbeats)


def make_view(
    row: SagaRow,
    events: Sequence[EventRow],
    now: datetime,
    *,
    requests: Sequence[OperatorRequest] = (),
    audits: Sequence[AuditEntry] = (),
    dead_letters: dict[str, list[int]] | None = None,
    heartbeats: Mapping[str, HeartbeatRow] | None = None,
) -> SagaView:
    """The view of a saga at `now`; without its history where that is written in words this version does not know."""
    of_run = [event for event in events if event.seq >= row.first_seq]  # of the others, some may be deleted
    try:
        state = fold(row.id, ((to_micros(event.at), event.payload) for event in of_run))
        timeline = _timeline(events)
        alive = _hear(state, heartbeats or {})
    except DecodeError as error:
        return SagaView(
            row=row,
            now=now,
            overdue=is_overdue(row, now),
            why=str(error),
            unreadable=str(error),
            requests=requests,
            audits=audits,
        )
    return SagaView(
        row=row,
        now=now,
        overdue=is_overdue(row, now),
        why=_why(state),
        waits=_waits(state, row, now),
        steps=[_step(state, step, now, alive.get(step.name)) for step in state.steps.values()],
        compensated=_compensated(timeline_events(of_run)),
        to_compensate=[step.name for step in undo_order(state)],
        where=() if state.blocked is None else state.blocked.frames,
        signals=signals_of(timeline_events(of_run), state),
        pivot=state.pivot,
        deadline_at=_moment(state.deadline),
        stands_still=state.waits_for_person or (state.undriven and not state.undoing),
        timeline=timeline,
        requests=requests,
        audits=audits,
        dead_letters=dead_letters or {},
    )


def _hear(state: SagaState, kept: Mapping[str, HeartbeatRow]) -> dict[str, tuple[datetime, msgspec.Raw]]:
    """Give steps the time that signs of life beside the history give them; of each when it came, and its details."""
    alive: dict[str, tuple[datetime, msgspec.Raw]] = {}
    for command, row in kept.items():
        known = state.commands.get(CommandId(command))
        if known is None or CommandId(command) not in state.signs:
            continue
        step, at = state.steps[known[0]], to_micros(row.at)
        if known[1] == "invoke":
            step.due = max(step.due, at + step.timeout) if step.due < NEVER else NEVER
            alive[step.name] = row.at, msgspec.Raw(row.details)
        elif step.undo.due < NEVER:
            step.undo = replace(step.undo, due=max(step.undo.due, at + state.compensation_timeout))
    return alive


def is_overdue(row: SagaRow, now: datetime) -> bool:
    """As `queries.overdue` says it in SQL."""
    late = now - GRACE
    if row.status not in LIVE:
        return False
    return (
        (row.wake_at is not None and row.wake_at < late)
        or (row.status == "running" and row.deadline_at is not None and row.deadline_at < late)
        or (row.undriven and row.updated_at < late)
        or (row.expected_at is not None and row.expected_at < now)
    )


def undo_order(state: SagaState) -> list[Step]:
    """What the undo still covers, or would if the saga stopped now: in flight first, then the last one done."""
    if state.ended:
        return []
    if state.stop is not None:
        covered = list(steps_to_undo(state))
    elif state.pivot:
        return []
    else:
        covered = [step for step in state.steps.values() if _would_be_undone(step)]
    return sorted(covered, key=lambda step: step.settled if step.settled < NEVER else NEVER + step.issued, reverse=True)


def _would_be_undone(step: Step) -> bool:
    if not step.compensate or step.undo.status in ("done", "given_up"):
        return False
    if step.status in ("waiting", "parked"):
        return step.tainted
    return step.status in ("succeeded", "unknown", "issued", "in_doubt")


def timeline_events(events: Sequence[EventRow]) -> list[tuple[EventRow, e.AnyEvent]]:
    """Each event with the transition it belongs to."""
    return [(row, event) for row in events for event in e.decode_events(row.payload)]


def _timeline(events: Sequence[EventRow]) -> list[TimelineEntry]:
    return [
        TimelineEntry(seq=row.seq, at=row.at, type=type(event).__name__, text=sentence(event))
        for row, event in timeline_events(events)
    ]


def _compensated(events: Sequence[tuple[EventRow, e.AnyEvent]]) -> list[str]:
    return [event.step for _, event in events if isinstance(event, e.StepUndone)]


def _why(state: SagaState) -> str | None:
    """Why a person is needed."""
    if state.ended:
        return None
    if state.blocked is not None:
        return f"{blocked_by(state.blocked)}: {failure_text(state.blocked)}; {what_unblocks(state.blocked)}"
    sentences = []
    for name, kind in state.troubled.items():
        step = state.steps[name]
        error = step.undo.error if kind == "deferred" else step.error
        what = {
            "parked": f"{name} is spent",
            "in_doubt": f"nobody knows whether {name} happened, {_not_undone(state, step)}",
            "deferred": f"the compensation of {name} is spent",
        }[kind]
        sentences.append(f"{what} ({failure_text(error)})" if error else what)
    if state.parked is not None:
        sentences.append(f"a failure after the pivot ({failure_text(state.parked)})")
    if state.held is not None:
        sentences.append(f"its undo is held, too many are being undone ({failure_text(state.held.error)})")
    return "; ".join(sentences) or None


def _not_undone(state: SagaState, step: Step) -> str:
    """Why a step of unknown outcome waits, and is not simply undone."""
    if not step.compensate:
        return "and nothing can undo it"
    if state.pivot:
        return "and after the pivot nothing is undone by itself"
    return "and its failure is to be parked, not undone"


def _waits(state: SagaState, row: SagaRow, now: datetime) -> list[Wait]:
    if state.ended:
        return []
    waits = [wait for step in state.steps.values() if (wait := _wait_of(state, step, now)) is not None]
    waits += _signals(state, now)
    timers = sorted(at for at in state.timers.values() if at < NEVER)
    if timers:
        waits.append(_until("a timer", timers[0], now))
    if state.held is not None:
        waits.append(_until("the breaker, which holds its undo", state.held.until, now))
    if state.undriven and state.blocked is None:
        waits.append(Wait(what=f"a process that has {state.definition} v{state.version}", overdue=is_overdue(row, now)))
    return waits


def _signals(state: SagaState, now: datetime) -> list[Wait]:
    """One for each name; of several waits the one whose signal should be here first."""
    expected: dict[str, int] = {}
    for n, name in state.receives.items():
        expected[name] = min(expected.get(name, NEVER), state.expected.get(n, NEVER))
    waits: list[Wait] = []
    for name, at in expected.items():
        until = from_micros(at) if at < NEVER else None
        what = f"the signal {name}" + (", expected" if until else "")
        waits.append(Wait(what=what, until=until, overdue=until is not None and until < now))
    return waits


def _wait_of(state: SagaState, step: Step, now: datetime) -> Wait | None:
    undo = step.undo
    if undo.status == "issued":
        return _until(f"the answer to the compensation of {step.name}, attempt {undo.attempt}", undo.due, now)
    if undo.status == "waiting":
        return _until(
            f"the next try of the compensation of {step.name}, attempt {undo.attempt + 1}", undo.retry_at, now
        )
    if undo.status == "deferred":
        return Wait(what=f"a person: the compensation of {step.name} is spent")
    match step.status:
        case "issued":
            of = f"attempt {step.attempt} of {step.retry.attempts}"
            return _until(f"the answer of {step.name}, {of}", step.due, now)
        case "waiting":
            return _next_try(step, now)
        case "parked":
            return Wait(what=f"a person: {step.name} is spent")
        case "in_doubt":
            return Wait(what=f"a person, or a late answer: whether {step.name} happened")
        case _:
            return None


def _next_try(step: Step, now: datetime) -> Wait:
    if step.mismatched and step.error is not None:
        return _until(f"a worker to which {step.name} fits ({failure_text(step.error)})", step.due, now)
    of = f"attempt {step.attempt - step.mismatches + 1} of {step.retry.attempts}"
    return _until(f"the next try of {step.name}, {of}", step.retry_at, now)


def _until(what: str, at: int, now: datetime) -> Wait:
    until = _moment(at)
    return Wait(what=what, until=until, overdue=until is not None and until < now - GRACE)


def _step(state: SagaState, step: Step, now: datetime, alive: tuple[datetime, msgspec.Raw] | None = None) -> StepView:
    started = from_micros(step.started_at)
    ended = None if step.ended_at is None else from_micros(step.ended_at)
    return StepView(
        name=step.name,
        activity=step.activity,
        status=step.status,
        attempt=step.attempt,
        attempts=step.retry.attempts,
        resends=step.resends,
        command_id=state.command_id(step, "invoke") if step.attempt else None,
        started_at=started,
        ended_at=ended,
        duration=max(timedelta(0), (ended or (from_micros(state.ended_at) if state.ended_at else now)) - started),
        input=step.input,
        output=step.output,
        progress=step.progress if alive is None else alive[1],
        alive_at=None if alive is None else alive[0],
        error=failure_text(step.error) if step.error else None,
        optional=step.optional,
        readonly=step.readonly,
        undo=_undo(state, step) if step.compensate else None,
    )


def _undo(state: SagaState, step: Step) -> UndoView:
    undo = step.undo
    return UndoView(
        activity=step.compensate,
        status=undo.status,
        attempt=undo.attempt,
        command_id=state.command_id(step, "compensate") if undo.attempt else None,
        error=failure_text(undo.error) if undo.error else None,
        reason=undo.reason or None,
    )


def _moment(micros: int) -> datetime | None:
    return from_micros(micros) if micros < NEVER else None
