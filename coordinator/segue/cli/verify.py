"""`segue verify`: proof that no saga is lost and that every row is what its history says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from segue.cli.arguments import read_argument
from segue.cli.connections import audit_key, reads, service_url
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.out import cell
from segue.coordinator import verification
from segue.coordinator.audit import parse_head
from segue.coordinator.foreign import outbox_problem
from segue.coordinator.verification import Violation


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "verify")(verify)


def verify(
    run: Invocation,
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many violations; all are counted.")] = 100,
    audit_head: Annotated[
        str | None,
        typer.Option(
            metavar="LINES:HASH|@FILE", help="What `segue audit head` printed once: lines up to it are there."
        ),
    ] = None,
) -> None:
    """Check every saga: none is lost, late or inconsistent, and the audit is unbroken. Safe at any time."""
    found = reads(run)
    kept_head = None if audit_head is None else parse_head(read_argument(audit_head)[0].decode("ascii", "replace"))
    counts: Counter[str] = Counter()
    kept: list[Violation] = []
    checked = 0
    with run.out.progress("sagas and audit lines", total=verification.size(found)) as advance:

        def counted(n: int) -> None:
            nonlocal checked
            checked += n
            advance(n)

        for violation in verification.verify(found, counted, audit_key=audit_key(run), kept=kept_head):
            counts[violation.check] += 1
            if len(kept) < limit:
                kept.append(violation)
    for violation in _unpublished(run):
        counts[violation.check] += 1
        kept.append(violation)
    _report(run, kept, counts, checked)
    if counts:
        raise Problem(f"{counts.total():,} violations: {', '.join(f'{name} {n:,}' for name, n in counts.items())}")


def _unpublished(run: Invocation) -> Iterator[Violation]:
    """Rows of the service's outbox, in relay.database, that no relay publishes."""
    text = run.loaded.settings.relay.database
    if not text:
        return
    url = service_url(text)
    if (problem := outbox_problem(url)) is not None:
        yield Violation(check="outbox", message=problem)


def _report(run: Invocation, kept: list[Violation], counts: Counter[str], checked: int) -> None:
    if run.out.json:
        violations = [{"check": one.check, "saga_id": one.saga_id, "message": one.message} for one in kept]
        counted = {"violations": counts.total(), "by_check": dict(counts), "checked": checked}
        run.out.document({"ok": not counts, **counted, "shown": violations})
        return
    if kept:
        run.out.table(("check", "saga", "what is wrong"), [(cell(one.check), one.saga_id, one.message) for one in kept])
    else:
        run.out.line(f"all is well: {checked:,} sagas and audit lines checked")
