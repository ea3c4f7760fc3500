"""Asking coordinators to do something: operator requests, and waiting for what became of them.

The command line never touches a saga itself. A coordinator applies the request as it applies a message, and writes the
audit in the same transaction; so an action and its audit can't be separated, whatever dies when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import msgspec
import typer

from segue.cli.arguments import actor_option, rate_option, reason_option, system_user, wait_option
from segue.cli.connections import reads, store
from segue.cli.exits import NotYet
from segue.cli.invocation import Invocation
from segue.cli.plain import plain_audit
from segue.clock import SYSTEM_CLOCK
from segue.coordinator.reads import Reads
from segue.coordinator.store import AuditEntry, OperatorRequest, RequestKind
from segue.errors import NotAllowed

#: Requests that are written, and outcomes that are read, at a time.
CHUNK = 500
#: Seconds between two looks at the requests: the first, and the longest.
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
_WAIT = "30s"

Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why: kept in the audit.")]
Actor = Annotated[
    str | None, typer.Option("--actor", metavar="NAME", help="Who acts, if not the user of the operating system.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be asked and what it would do; change nothing.")
]
Rate = Annotated[str | None, typer.Option("--rate", metavar="N/s", help="Spread them: 10/s, 5/m.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Don't wait until a coordinator has done it.")]
WaitFor = Annotated[
    str,
    typer.Option("--wait-for", metavar="DURATION", help="How long to wait for a coordinator, beyond the rate's time."),
]
WAIT_FOR: str = _WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One thing to ask for, and what the dry run says about it."""

    arguments: Mapping[str, Any]
    saga_id: str | None = None
    dead_letter_id: int | None = None
    accepted: bool = True
    effects: Sequence[str] = ()

    @property
    def subject(self) -> str:
        """What it is about, for people."""
        return str(self.saga_id) if self.dead_letter_id is None else f"dead letter {self.dead_letter_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to ask: who, why, how fast, and whether to wait."""

    actor: str
    reason: str
    spacing: timedelta = timedelta()
    #: How long to wait for a coordinator; None: not at all.
    patience: timedelta | None = None


def manner(
    *, actor: str | None, reason: str | None, rate: str | None = None, no_wait: bool, wait_for: str, mandatory: bool
) -> Manner:
    """The options of an action, checked. Raises UsageError."""
    return Manner(
        actor=actor_option(actor),
        reason=reason_option(reason, mandatory=mandatory),
        spacing=rate_option(rate),
        patience=None if no_wait else wait_option(wait_for),
    )


def show_wishes(run: Invocation, kind: RequestKind, wishes: Iterable[Wish]) -> None:
    """The dry run: what would be asked, and what that would do at once."""
    found = list(wishes)
    if run.out.json:
        run.out.document(
            {"dry_run": True, "kind": kind, "count": len(found), "requests": [_plain(one) for one in found]}
        )
        return
    for wish in found:
        run.out.line(f"{wish.subject}: would {kind}" if wish.accepted else f"{wish.subject}: {kind} would be refused")
        for effect in wish.effects:
            run.out.line(f"    {effect}")
    refused = sum(not wish.accepted for wish in found)
    run.out.note(f"dry run: {len(found):,} requests, {refused:,} of them would be refused; nothing was changed")


def ask(run: Invocation, kind: RequestKind, wishes: Iterable[Wish], how: Manner) -> None:
    """Ask for all of them, wait as long as wanted, and say what became of each.

    Raises NotAllowed if a coordinator refused any, NotYet if some are not dealt with in time.
    """
    database = store(run)
    begun = database.now()
    ids: dict[int, str] = {}
    source = iter(wishes)
    with run.out.progress(f"asking: {kind}") as advance:
        while chunk := list(islice(source, CHUNK)):
            rows = [_request(kind, wish, how, begun, len(ids) + n) for n, wish in enumerate(chunk)]
            ids.update(zip(database.ask(rows), (wish.subject for wish in chunk), strict=True))
            advance(len(chunk))
    if how.patience is None:
        _tell_asked(run, kind, ids)
        return
    spread = how.spacing * max(0, len(ids) - 1)
    left = _wait(run, list(ids), how.patience + spread)
    outcomes = _outcomes(reads(run), [number for number in ids if number not in left])
    _tell(run, kind, ids, outcomes, left)


def _request(kind: RequestKind, wish: Wish, how: Manner, begun: datetime, n: int) -> OperatorRequest:
    return OperatorRequest(
        kind=kind,
        saga_id=wish.saga_id,
        dead_letter_id=wish.dead_letter_id,
        arguments=msgspec.json.encode(wish.arguments),
        actor=how.actor,
        reason=how.reason,
        not_before=begun + how.spacing * n,
        created_at=begun,
        system_user=system_user(),
    )


def _wait(run: Invocation, ids: list[int], patience: timedelta) -> set[int]:
    """Look until all are dealt with or the time is over; those that are left."""
    found = reads(run)
    give_up = SYSTEM_CLOCK.monotonic() + patience.total_seconds()
    pause = _FIRST_LOOK
    left = set(ids)
    with run.out.progress("waiting for a coordinator", total=len(ids)) as advance:
        while True:
            still = {number for chunk in _chunks(sorted(left)) for number in found.pending(chunk)}
            advance(len(left) - len(still))
            left = still
            if not left or SYSTEM_CLOCK.monotonic() >= give_up:
                return left
            SYSTEM_CLOCK.sleep(min(pause, max(0.0, give_up - SYSTEM_CLOCK.monotonic())))
            pause = min(pause * 1.5, _LONGEST_LOOK)


def _outcomes(found: Reads, ids: list[int]) -> dict[int, AuditEntry]:
    return {number: entry for chunk in _chunks(ids) for number, entry in found.outcomes(chunk).items()}


def _chunks(ids: Sequence[int]) -> Iterator[list[int]]:
    for begin in range(0, len(ids), CHUNK):
        yield list(ids[begin : begin + CHUNK])


def _tell_asked(run: Invocation, kind: RequestKind, ids: Mapping[int, str]) -> None:
    if run.out.json:
        results = [{"request_id": number, "subject": subject, "outcome": None} for number, subject in ids.items()]
        run.out.document({"kind": kind, "count": len(ids), "results": results})
    else:
        run.out.line(f"asked for {len(ids):,} × {kind}; a coordinator will do it")


def _tell(
    run: Invocation, kind: RequestKind, ids: Mapping[int, str], outcomes: Mapping[int, AuditEntry], left: set[int]
) -> None:
    if run.out.json:
        results = [_result(number, subject, outcomes.get(number)) for number, subject in ids.items()]
        run.out.document({"kind": kind, "count": len(ids), "results": results})
    else:
        for number, subject in ids.items():
            if number not in left:
                entry = outcomes.get(number)
                run.out.line(
                    f"{subject}: {kind}: {entry.outcome if entry else 'dealt with, without a line in the audit'}"
                )
    if left:
        raise NotYet(
            f"{len(left):,} of {len(ids):,} requests are still waiting for a coordinator; they stay queued. "
            "Is one running (`segue coordinator run`)?"
        )
    refused = sum(entry.outcome != "done" for entry in outcomes.values())
    if refused:
        raise NotAllowed(f"{refused:,} of {len(ids):,} requests were refused; see above")


def _result(number: int, subject: str, entry: AuditEntry | None) -> dict[str, Any]:
    return {
        "request_id": number,
        "subject": subject,
        "outcome": entry.outcome if entry else None,
        "audit": plain_audit(entry) if entry else None,
    }


def _plain(wish: Wish) -> dict[str, Any]:
    return {
        "saga_id": wish.saga_id,
        "dead_letter_id": wish.dead_letter_id,
        "arguments": dict(wish.arguments),
        "accepted": wish.accepted,
        "effects": list(wish.effects),
    }
