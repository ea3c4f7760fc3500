"""A saga as its row shows it, and the starts of it that were refused; every statement a client runs is here."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, select

from segue.client.tables import dead_letter, saga
from segue.saga.state import Attention

Status: TypeAlias = Literal["running", "compensating", "completed", "compensated", "failed", "cancelled"]

#: Statuses in which a saga stays for good.
ENDED: frozenset[str] = frozenset(("completed", "compensated", "failed", "cancelled"))
#: Refused starts of one saga that are looked at, newest first.
_MOST_REFUSALS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaDescription:
    """One saga at the moment of reading; times are UTC. `input` and `result` are canonical JSON."""

    id: str
    definition: str
    version: int
    status: Status
    #: Other than `none` where a person is needed.
    attention: Attention
    #: The steps it is at, for people.
    step: str | None
    #: What it waits for, for people.
    waiting_for: str | None
    input: bytes
    result: bytes | None
    error_class: str | None
    error_code: str | None
    error_message: str | None
    attempt: int
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    deadline_at: datetime | None
    attributes: Mapping[str, Any]
    #: Who drives it; empty: a coordinator of the version before, whose name is not known yet.
    coordinator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A start that the coordinator could not carry out: it is among the dead letters, with the reason."""

    request_id: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look at the database shows of a saga."""

    row: SagaDescription | None
    #: Newest first; looked for only while there is no row.
    refusals: tuple[Refusal, ...] = field(default=())


_SAGA = select(*(saga.c[name] for name in SagaDescription.__dataclass_fields__))
_REFUSALS = (
    select(dead_letter.c.headers, dead_letter.c.reason, dead_letter.c.error_message)
    .where(dead_letter.c.state == "dead")
    .order_by(dead_letter.c.id.desc())
    .limit(_MOST_REFUSALS)
)


def look(connection: Connection, saga_id: str) -> Sight:
    """Read the row or, if there is none, why there may be none."""
    row = connection.execute(_SAGA.where(saga.c.id == saga_id)).one_or_none()
    if row is not None:
        return Sight(row=SagaDescription(**row._mapping))
    letters = connection.execute(_REFUSALS.where(dead_letter.c.saga_id == saga_id)).all()
    refusals = (_refusal(headers, reason, message) for headers, reason, message in letters)
    return Sight(row=None, refusals=tuple(refusal for refusal in refusals if refusal is not None))


def _refusal(packed: bytes, reason: str, message: str) -> Refusal | None:
    headers = {name: value for name, value in json.loads(packed) if value is not None}
    if _text(headers.get("ce_sagaaction")) != "start":
        return None
    return Refusal(request_id=_text(headers.get("ce_id")), reason=reason, message=message)


def _text(encoded: str | None) -> str:
    return b64decode(encoded or "").decode("utf-8", "replace")
