"""Every statement with which people read: lists, one saga, dead letters, requests, and the checks of `segue verify`.

They run on PostgreSQL and on SQLite, and none of them locks anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, true, tuple_, union_all

from segue.coordinator.schema import (
    audit,
    audit_head,
    consumer_offset,
    dead_letter,
    heartbeat,
    operator_request,
    outbox,
    outbox_batch,
    outbox_quarantine,
    saga,
    saga_event,
)
from segue.coordinator.statements import Elements
from segue.coordinator.statements import unpublished as unpublished_sagas

GroupBy = Literal["error", "undo_error", "definition", "step", "status"]
DeadLetterGroupBy = Literal["fingerprint", "reason", "topic"]

#: Statuses of sagas that are not over.
LIVE = ("running", "compensating")
#: Time that a wake-up, a deadline or a request may be late before somebody is told.
GRACE = timedelta(seconds=30)

_GROUPS: dict[str, ColumnElement[Any]] = {
    "error": saga.c.error_code,
    "undo_error": saga.c.undo_error_code,
    "definition": saga.c.definition,
    "step": saga.c.step,
    "status": saga.c.status,
}
_DEAD_LETTER_GROUPS: dict[str, ColumnElement[Any]] = {
    "fingerprint": dead_letter.c.fingerprint,
    "reason": dead_letter.c.reason,
    "topic": dead_letter.c.topic,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaFilter:
    """Which sagas; empty fields do not restrict. `since` is about the last change.

    `coordinator`: its own, and those of which it is not known yet whose they are.
    """

    ids: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()
    definition: str | None = None
    step: str | None = None
    error: str | None = None
    since: datetime | None = None
    stuck: bool = False
    coordinator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters; empty fields do not restrict. `since` is about when they were stored.

    `coordinator`: its own, and those of which nobody knows who has read them.
    """

    ids: tuple[int, ...] = ()
    states: tuple[str, ...] = ()
    saga_id: str | None = None
    #: The beginning of a fingerprint is enough.
    fingerprint: str | None = None
    reason: str | None = None
    topic: str | None = None
    since: datetime | None = None
    coordinator: str | None = None


def overdue(now: datetime) -> ColumnElement[bool]:
    """Sagas that should have moved by now: no wake-up, no code, their deadline passed, or a signal is late."""
    late = now - GRACE
    return and_(
        saga.c.status.in_(LIVE),
        or_(
            and_(saga.c.alarm_at < late, saga.c.wake_at < late),  # the alarm is never later, and indexed
            and_(saga.c.status == "running", saga.c.deadline_at < late),
            and_(saga.c.undriven, saga.c.updated_at < late),
            saga.c.expected_at < now,
        ),
    )


def stuck(now: datetime) -> ColumnElement[bool]:
    """Sagas that need a person: attention is set, or they are overdue."""
    return or_(saga.c.attention != "none", overdue(now))


def _chosen(wanted: SagaFilter, now: datetime) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.ids:
        conditions.append(saga.c.id.in_(wanted.ids))
    if wanted.statuses:
        conditions.append(saga.c.status.in_(wanted.statuses))
    if wanted.attentions:
        conditions.append(saga.c.attention.in_(wanted.attentions))
    for column, value in (
        (saga.c.definition, wanted.definition),
        (saga.c.step, wanted.step),
        (saga.c.error_code, wanted.error),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.since is not None:
        conditions.append(saga.c.updated_at >= wanted.since)
    if wanted.coordinator is not None:
        conditions.append(saga.c.coordinator.in_((wanted.coordinator, "")))
    if wanted.stuck:
        conditions.append(stuck(now))
    return conditions


def list_sagas(
    wanted: SagaFilter, now: datetime, limit: int, after: tuple[datetime, str] | None
) -> Select[*tuple[Any, ...]]:
    """Newest first; `after` is (started_at, id) of the last one of the page before."""
    query = select(saga, overdue(now).label("overdue")).where(*_chosen(wanted, now))
    if after is not None:
        query = query.where(
            tuple_(saga.c.started_at, saga.c.id) < tuple_(literal(after[0], saga.c.started_at.type), after[1])
        )
    return query.order_by(saga.c.started_at.desc(), saga.c.id.desc()).limit(limit)


def begins_with(prefix: str, limit: int) -> Select[*tuple[Any, ...]]:
    """Sagas whose ids begin so, newest first."""
    return (
        select(saga)
        .where(saga.c.id.startswith(prefix, autoescape=True))
        .order_by(saga.c.started_at.desc(), saga.c.id.desc())
        .limit(limit)
    )


def count_sagas(wanted: SagaFilter, now: datetime) -> Select[*tuple[Any, ...]]:
    """How many sagas."""
    return select(func.count()).select_from(saga).where(*_chosen(wanted, now))


def group_sagas(wanted: SagaFilter, now: datetime, by: GroupBy, limit: int) -> Select[*tuple[Any, ...]]:
    """Largest group first: key, number, oldest start, newest change, one of them."""
    key = _GROUPS[by].label("key")
    return (
        select(
            key,
            func.count().label("count"),
            func.min(saga.c.started_at).label("oldest"),
            func.max(saga.c.updated_at).label("newest"),
            func.min(saga.c.id).label("example"),
        )
        .where(*_chosen(wanted, now))
        .group_by(_GROUPS[by])
        .order_by(func.count().desc(), key)
        .limit(limit)
    )


def one_saga(saga_id: str) -> Select[*tuple[Any, ...]]:
    """The row of one saga."""
    return select(saga).where(saga.c.id == saga_id)


#: A transition belongs to the present run of its saga.
_OF_RUN = and_(saga_event.c.saga_id == saga.c.id, saga_event.c.seq >= saga.c.first_seq)


def history(saga_id: str, *, all_runs: bool = False) -> Select[*tuple[Any, ...]]:
    """The transitions of one saga, of its present run or of all."""
    events = select(saga_event) if all_runs else select(saga_event).join(saga, _OF_RUN)
    return events.where(saga_event.c.saga_id == saga_id).order_by(saga_event.c.seq)


def heartbeats(saga_id: str) -> Select[*tuple[Any, ...]]:
    """What is kept of the signs of life of one saga's commands."""
    return select(heartbeat).where(heartbeat.c.saga_id == saga_id)


def unpublished(saga_id: str) -> Select[*tuple[Any, ...]]:
    """How many messages of one saga wait in the outbox, since when; those of one batch count as one."""
    sagas = Elements(outbox_batch.c.sagas).table_valued("value")
    return _waiting(
        select(literal(1).label("size"), outbox.c.created_at).where(outbox.c.saga_id == saga_id),
        select(literal(1), outbox_batch.c.created_at)
        .select_from(outbox_batch.join(sagas, true()))
        .where(sagas.c.value == saga_id),
    )


def _waiting(rows: Select[Any, Any], batches: Select[Any, Any]) -> Select[*tuple[Any, ...]]:
    both = union_all(rows, batches).subquery()
    return select(func.coalesce(func.sum(both.c.size), 0).label("count"), func.min(both.c.created_at).label("oldest"))


def _chosen_letters(wanted: DeadLetterFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.ids:
        conditions.append(dead_letter.c.id.in_(wanted.ids))
    if wanted.states:
        conditions.append(dead_letter.c.state.in_(wanted.states))
    for column, value in (
        (dead_letter.c.saga_id, wanted.saga_id),
        (dead_letter.c.reason, wanted.reason),
        (dead_letter.c.topic, wanted.topic),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.fingerprint is not None:
        conditions.append(dead_letter.c.fingerprint.startswith(wanted.fingerprint, autoescape=True))
    if wanted.since is not None:
        conditions.append(dead_letter.c.created_at >= wanted.since)
    if wanted.coordinator is not None:
        conditions.append(dead_letter.c.coordinator.in_((wanted.coordinator, "")))
    return conditions


def list_dead_letters(
    wanted: DeadLetterFilter, limit: int, after: int | None, *, whole: bool
) -> Select[*tuple[Any, ...]]:
    """Oldest first; `after` is the id of the last one of the page before."""
    columns = [column for column in dead_letter.c if whole or column.name not in ("key", "value", "headers")]
    size = func.coalesce(func.length(dead_letter.c.value), 0).label("size")
    query = select(*columns, *(() if whole else (size,))).where(*_chosen_letters(wanted))
    if after is not None:
        query = query.where(dead_letter.c.id > after)
    return query.order_by(dead_letter.c.id).limit(limit)


def group_dead_letters(wanted: DeadLetterFilter, by: DeadLetterGroupBy, limit: int) -> Select[*tuple[Any, ...]]:
    """Largest group first: key, number, oldest, newest, an id and a message out of it."""
    key = _DEAD_LETTER_GROUPS[by].label("key")
    return (
        select(
            key,
            func.count().label("count"),
            func.min(dead_letter.c.created_at).label("oldest"),
            func.max(dead_letter.c.updated_at).label("newest"),
            func.min(dead_letter.c.id).label("example"),
            func.min(dead_letter.c.error_message).label("message"),
        )
        .where(*_chosen_letters(wanted))
        .group_by(_DEAD_LETTER_GROUPS[by])
        .order_by(func.count().desc(), key)
        .limit(limit)
    )


def pending_requests(ids: list[int]) -> Select[*tuple[Any, ...]]:
    """Which of these operator requests are not dealt with yet."""
    return select(operator_request.c.id).where(operator_request.c.id.in_(ids))


def requests_of(saga_id: str) -> Select[*tuple[Any, ...]]:
    """What people have asked for this saga and no coordinator has done yet."""
    return select(operator_request).where(operator_request.c.saga_id == saga_id).order_by(operator_request.c.id)


def audits_of_requests(ids: list[int]) -> Select[*tuple[Any, ...]]:
    """What became of these operator requests."""
    return select(audit).where(audit.c.request_id.in_(ids)).order_by(audit.c.seq)


def audits_of_saga(saga_id: str) -> Select[*tuple[Any, ...]]:
    """What people did to this saga."""
    return select(audit).where(audit.c.saga_id == saga_id).order_by(audit.c.seq)


# --- segue verify ------------------------------------------------------------------------------------------------


def lost_sagas() -> Select[*tuple[Any, ...]]:
    """The progress witness: live sagas that nothing will ever move. It must find none, at any moment.

    A witness is a wake-up, a message on its way, a person who is needed (`attention`), or a wait for a message that
    anybody may send (`waiting_for`). Code that is not here is a witness, too: the process that has it will come.
    """
    return (
        select(saga.c.id.label("saga"), saga.c.definition, saga.c.status, saga.c.step, saga.c.updated_at)
        .where(
            saga.c.status.in_(LIVE),
            saga.c.wake_at.is_(None),
            saga.c.attention == "none",
            ~saga.c.undriven,
            or_(saga.c.waiting_for.is_(None), ~saga.c.waiting_for.startswith("signal ")),
            ~unpublished_sagas(),
        )
        .order_by(saga.c.id)
    )


def broken_histories() -> Select[*tuple[Any, ...]]:
    """Sagas whose transitions have a gap, or are not all there from the first of their run up to their revision.

    Those of earlier runs may have been deleted, the oldest first.
    """
    counted = (
        select(
            saga_event.c.saga_id,
            func.count().label("count"),
            func.min(saga_event.c.seq).label("first"),
            func.max(saga_event.c.seq).label("last"),
        )
        .group_by(saga_event.c.saga_id)
        .subquery()
    )
    return (
        select(
            saga.c.id.label("saga"), saga.c.revision, saga.c.first_seq, counted.c.count, counted.c.first, counted.c.last
        )
        .select_from(saga.outerjoin(counted, counted.c.saga_id == saga.c.id))
        .where(
            or_(
                counted.c.count.is_(None),
                counted.c.first > saga.c.first_seq,
                counted.c.last - counted.c.first + 1 != counted.c.count,
                counted.c.last != saga.c.revision,
            )
        )
        .order_by(saga.c.id)
    )


def overdue_sagas(now: datetime) -> Select[*tuple[Any, ...]]:
    """Live sagas that should have moved by now, the latest first."""
    return (
        select(
            saga.c.id.label("saga"),
            saga.c.coordinator,
            saga.c.definition,
            saga.c.version,
            saga.c.wake_at,
            saga.c.deadline_at,
            saga.c.undriven,
        )
        # A deadline that has stood still comes later than it was promised: it rings by `wake_at`.
        .where(overdue(now), saga.c.attention == "none", or_(saga.c.undriven, saga.c.wake_at < now - GRACE))
        .order_by(saga.c.wake_at, saga.c.id)
    )


def last_moves() -> Select[*tuple[Any, ...]]:
    """When sagas of each coordinator, type and version were moved last by a process that has their code."""
    code = (saga.c.coordinator, saga.c.definition, saga.c.version)
    return select(*code, func.max(saga.c.updated_at).label("at")).where(~saga.c.undriven).group_by(*code)


def outbox_age() -> Select[*tuple[Any, ...]]:
    """How many messages wait to be published, and since when."""
    return _waiting(
        select(literal(1).label("size"), outbox.c.created_at), select(outbox_batch.c.size, outbox_batch.c.created_at)
    )


def standing() -> Select[*tuple[Any, ...]]:
    """Partitions whose reading does not go on."""
    here = consumer_offset.c.stands_at == consumer_offset.c.next
    return select(consumer_offset).where(here).order_by(consumer_offset.c.topic, consumer_offset.c.partition)


def quarantined() -> Select[*tuple[Any, ...]]:
    """Messages that could not be published at all."""
    table = outbox_quarantine
    return select(
        table.c.id, table.c.aggregatetype, table.c.aggregateid, table.c.error, table.c.quarantined_at
    ).order_by(table.c.seq)


def overdue_requests(now: datetime) -> Select[*tuple[Any, ...]]:
    """Operator requests that no coordinator has taken."""
    table = operator_request
    return (
        select(table.c.id, table.c.kind, table.c.not_before)
        .where(table.c.not_before < now - GRACE)
        .order_by(table.c.id)
    )


def kept_starts(now: datetime) -> Select[*tuple[Any, ...]]:
    """Starts that wait for a coordinator that has their saga type."""
    table = dead_letter
    return (
        select(table.c.id, table.c.saga_id.label("saga"), table.c.definition, table.c.created_at)
        .where(table.c.state == "parked", table.c.definition.is_not(None), table.c.created_at < now - GRACE)
        .order_by(table.c.id)
    )


def saga_chunk(after: str, limit: int) -> Select[*tuple[Any, ...]]:
    """The next sagas by id."""
    return select(saga).where(saga.c.id > after).order_by(saga.c.id).limit(limit)


def histories(ids: list[str]) -> Select[*tuple[Any, ...]]:
    """The transitions of the present runs of several sagas."""
    return (
        select(saga_event.c.saga_id, saga_event.c.seq, saga_event.c.at, saga_event.c.payload)
        .join(saga, _OF_RUN)
        .where(saga_event.c.saga_id.in_(ids))
        .order_by(saga_event.c.saga_id, saga_event.c.seq)
    )


def audit_lines(after: int, limit: int) -> Select[*tuple[Any, ...]]:
    """The next lines of the audit."""
    return select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)


def audit_end() -> Select[*tuple[Any, ...]]:
    """What `audit_head` says of the end of the audit."""
    return select(audit_head.c.lines, audit_head.c.hash, audit_head.c.mac).where(audit_head.c.id == 1)


def count_all() -> Select[*tuple[Any, ...]]:
    """How many sagas and audit lines there are."""
    return select(
        select(func.count()).select_from(saga).scalar_subquery().label("sagas"),
        select(func.count()).select_from(audit).scalar_subquery().label("audits"),
    )


def drained() -> Select[*tuple[Any, ...]]:
    """How far each partition is applied."""
    return select(consumer_offset).order_by(
        consumer_offset.c.coordinator, consumer_offset.c.topic, consumer_offset.c.partition
    )
