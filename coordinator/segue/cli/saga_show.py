"""`segue saga show ID`: where is it, why, and what has been or would be undone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from segue.cli.completing import saga_ids
from segue.cli.connections import reads
from segue.cli.escape import escape, excerpt
from segue.cli.invocation import Invocation
from segue.cli.out import Cell, Out, cell, moment, moment_and_relative, precise
from segue.cli.plain import plain_view
from segue.coordinator.store import AuditEntry, SagaRow
from segue.coordinator.view import SagaView, StepView, Wait, view_saga

#: Lines of the history that are shown without `--all`: from a start and from the end.
_HEAD, _TAIL = 10, 40


def show_saga(
    run: Invocation,
    saga_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=saga_ids)],
    everything: Annotated[
        bool, typer.Option("--all", help="Show all of a long history and of earlier runs, and whole payloads.")
    ] = False,
) -> None:
    """Show where a saga is, why, what it waits for, and what has been or would be compensated."""
    view = view_saga(reads(run), saga_id, all_runs=everything)
    if run.out.json:
        run.out.document(plain_view(view))
        return
    for warning in filter(None, (view.unreadable,)):
        run.out.warn(warning)
    _head(run.out, view)
    _steps(run.out, view, 100_000 if everything else 60)
    _signals(run.out, view, 100_000 if everything else 60)
    _undo(run.out, view)
    _people(run.out, view)
    _history(run.out, view, everything)


def _head(out: Out, view: SagaView) -> None:
    row, now = view.row, view.now
    out.line(Text.assemble((escape(row.id), "bold"), f"  {escape(row.definition)} v{row.version}"))
    status = Text.assemble(cell(row.status))
    if row.attention != "none":
        status.append_text(Text.assemble(", ", cell(row.attention)))
    if view.overdue:
        status.append(", overdue", style="bold red")
    out.facts(
        (
            ("status", status),
            ("run", _run(row)),
            ("why", view.why),
            *((("where" if n == 0 else ""), escape(line)) for n, line in enumerate(view.where)),
            ("step", row.step if row.ended_at is None else None),
            *((("waits for" if n == 0 else ""), _wait(wait, now)) for n, wait in enumerate(view.waits)),
            ("error", _error(row.error_code, row.error_message)),
            ("undo's error", _error(row.undo_error_code, row.undo_error_message)),
            ("started", moment_and_relative(row.started_at, now)),
            ("last change", moment_and_relative(row.updated_at, now)),
            ("ended", moment_and_relative(row.ended_at, now)),
            ("deadline", _deadline(view)),
            ("next wake-up", moment_and_relative(row.wake_at, now)),
            ("input", excerpt(row.input)),
            ("result", excerpt(row.result) if row.result is not None else None),
            *((f"@{name}", msgspec.json.encode(value).decode()) for name, value in row.attributes.items()),
        )
    )


def _deadline(view: SagaView) -> str | None:
    """As it was promised, and when it rings if it has stood still."""
    promised, moved = view.row.deadline_at, view.deadline_at
    if view.row.ended_at or promised is None:
        return None
    shown = moment_and_relative(promised, view.now)
    if view.stands_still:
        return f"{shown}; stands still while a person is waited for"
    if moved in (None, promised):
        return shown
    return f"{shown}; it has stood still, and rings {moment_and_relative(moved, view.now)}"


def _run(row: SagaRow) -> str | None:
    return f"{row.run}, since transition {row.first_seq:,}" if row.run > 1 else None


def _error(code: str | None, message: str | None) -> str | None:
    parts = [part for part in (code, message) if part]
    return ": ".join(parts) or None


def _wait(wait: Wait, now: datetime) -> Text:
    text = Text(escape(wait.what))
    if wait.until is not None:
        text.append(f" until {moment_and_relative(wait.until, now)}")
    if wait.overdue:
        text.append(", overdue", style="bold red")
    return text


def _steps(out: Out, view: SagaView, longest: int) -> None:
    if not view.steps:
        return
    out.line()
    out.table(
        ("step", "status", "attempt", "took", "command", "result", "compensation"),
        (_step_row(step, longest) for step in view.steps),
    )


def _step_row(step: StepView, longest: int) -> tuple[Cell, ...]:
    result = escape(step.error, longest) if step.error else excerpt(bytes(step.output), longest)
    if step.ended_at is None and not step.error:
        result = excerpt(bytes(step.progress), longest) if bytes(step.progress) != b"null" else ""
    return (
        step.name,
        _status(step.status),
        f"{step.attempt}/{step.attempts}",
        step.duration,
        step.command_id,
        result,
        _compensation(step),
    )


def _signals(out: Out, view: SagaView, longest: int) -> None:
    if not view.signals:
        return
    out.line()
    rows = ((x.name, x.at, x.status, x.sender, x.id, excerpt(bytes(x.payload), longest)) for x in view.signals)
    out.table(("signal", "came", "status", "from", "id", "payload"), rows)


def _status(status: str) -> Text:
    styles = {
        "succeeded": "green",
        "failed": "red",
        "parked": "bold yellow",
        "in_doubt": "bold red",
        "unknown": "yellow",
    }
    return Text(status, style=styles.get(status, "cyan"))


def _compensation(step: StepView) -> Text:
    if step.undo is None:
        return Text("-", style="dim")
    undo = step.undo
    text = Text(escape(undo.activity))
    if undo.status != "none":
        text.append(f" {undo.status}", style="green" if undo.status == "done" else "bold yellow")
    if undo.attempt:
        text.append(f", attempt {undo.attempt}")
    for detail in filter(None, (undo.error, undo.reason)):
        text.append(f" ({escape(detail, 80)})")
    return text


def _undo(out: Out, view: SagaView) -> None:
    if view.compensated:
        out.line(f"compensated, in this order: {', '.join(view.compensated)}")
    if view.to_compensate:
        what = "still to be compensated" if view.row.status == "compensating" else "would be compensated"
        out.line(f"{what}, in this order: {', '.join(view.to_compensate)}")
    elif view.pivot and view.row.ended_at is None:
        out.line("past the pivot: nothing would be compensated")


def _people(out: Out, view: SagaView) -> None:
    for state, ids in view.dead_letters.items():
        out.line(f"dead letters {state}: {', '.join(map(str, ids[:20]))}{' …' if len(ids) > 20 else ''}")
    for request in view.requests:
        why = f": {request.reason}" if request.reason else ""
        out.line(f"asked by {request.actor}, not done yet: {request.kind}, due {moment(request.not_before)}{why}")
    for audit in view.audits:
        why = f": {audit.reason}" if audit.reason else ""
        out.line(f"{moment(audit.at)}  {audit.actor}{_known_as(audit)}: {audit.action}, {audit.outcome}{why}")


def _known_as(audit: AuditEntry) -> str:
    """`actor` is what somebody says: beside it what the system and the database know."""
    known = [("system user ", audit.system_user), ("database role ", audit.database_role)]
    text = ", ".join(what + who for what, who in known if who)
    return f" ({text})" if text else ""


def _history(out: Out, view: SagaView, everything: bool) -> None:
    if not view.timeline:
        return
    out.line()
    entries = list(view.timeline)
    if not everything and len(entries) > _HEAD + _TAIL:
        left_out = len(entries) - _HEAD - _TAIL
        rows = [*_lines(entries[:_HEAD]), ("", "", f"… {left_out} events, shown with --all"), *_lines(entries[-_TAIL:])]
    else:
        rows = list(_lines(entries))
    out.table(("#", "time", "what happened"), rows)


def _lines(entries: Any) -> Iterator[tuple[Cell, ...]]:
    for entry in entries:
        yield entry.seq, precise(entry.at), entry.text
