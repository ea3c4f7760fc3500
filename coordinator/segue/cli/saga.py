"""`segue saga`: lists, one saga, and what people do to them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text

from segue.cli import saga_actions, saga_export, saga_show, saga_signal, saga_start
from segue.cli.arguments import since_option
from segue.cli.connections import reads
from segue.cli.invocation import Invocation, command
from segue.cli.out import Cell, relative
from segue.cli.plain import plain_row
from segue.coordinator.queries import SagaFilter
from segue.coordinator.reads import Group, ListedSaga


class Status(StrEnum):
    """Statuses of a saga."""

    running = "running"
    compensating = "compensating"
    completed = "completed"
    compensated = "compensated"
    failed = "failed"
    cancelled = "cancelled"


class By(StrEnum):
    """What sagas can have in common."""

    error = "error"
    undo_error = "undo_error"
    definition = "definition"
    step = "step"
    status = "status"


def register(app: typer.Typer) -> None:
    """Add the noun."""
    sagas = typer.Typer(help="List sagas, show, start and signal one, and act on them.", no_args_is_help=True)
    command(sagas, "ls")(list_sagas)
    command(sagas, "show")(saga_show.show_saga)
    command(sagas, "export")(saga_export.export_sagas)
    command(sagas, "start")(saga_start.start_saga)
    command(sagas, "signal")(saga_signal.signal_saga)
    saga_actions.register(sagas)
    app.add_typer(sagas, name="saga")


def list_sagas(
    run: Invocation,
    status: Annotated[list[Status] | None, typer.Option(help="Only these statuses; may be repeated.")] = None,
    definition: Annotated[str | None, typer.Option(help="Only this saga type.")] = None,
    step: Annotated[str | None, typer.Option(help="Only sagas whose current step is this one.")] = None,
    error: Annotated[str | None, typer.Option(metavar="CODE", help="Only sagas with this error code.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only sagas that need a person, or are overdue.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Changed since: 2h, 3d, or an RFC 3339 time.")
    ] = None,
    group_by: Annotated[By | None, typer.Option(help="Count by what they have in common.")] = None,
    all_coordinators: Annotated[
        bool, typer.Option("--all-coordinators", help="Also those of other coordinators that share the database.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after the page before (its `next`).")
    ] = None,
) -> None:
    """List sagas, newest first."""
    found = reads(run)
    wanted = SagaFilter(
        statuses=tuple(one.value for one in status or ()),
        definition=definition,
        step=step,
        error=error,
        stuck=stuck,
        since=since_option(since, found),
        coordinator=None if all_coordinators else run.loaded.settings.coordinator.name,
    )
    if group_by is not None:
        _show_groups(run, group_by.value, found.groups(wanted, group_by.value, limit))
        return
    page = found.sagas(wanted, limit, after)
    if run.out.json:
        run.out.document({"sagas": [plain_row(one.row, one.overdue) for one in page.items], "next": page.next})
        return
    _show_list(run, page.items, found.now())
    if page.next is not None:
        run.out.note(f"more: --after {page.next}")


def _show_list(run: Invocation, items: Any, now: datetime) -> None:
    if not items:
        run.out.note("no sagas")
        return
    headers = ("id", "type", "status", "attention", "step", "waiting for", "started", "wakes", "error")
    run.out.table(headers, (_list_row(one, now) for one in items))


def _list_row(one: ListedSaga, now: datetime) -> tuple[Cell, ...]:
    row = one.row
    wakes = relative(row.wake_at, now) if row.wake_at else None
    return (
        row.id,
        f"{row.definition} v{row.version}",
        row.status,
        row.attention,
        row.step,
        row.waiting_for,
        relative(row.started_at, now),
        Text(f"overdue, {wakes or 'not here'}", style="bold red") if one.overdue else wakes,
        row.error_code,
    )


def _show_groups(run: Invocation, by: str, groups: list[Group]) -> None:
    if run.out.json:
        run.out.document({"by": by, "groups": [_plain_group(group) for group in groups]})
    elif not groups:
        run.out.note("no sagas")
    else:
        rows = [(group.key, group.count, group.oldest, group.newest, group.example) for group in groups]
        run.out.table((by, "sagas", "oldest start", "last change", "for example"), rows)


def _plain_group(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in ("key", "count", "oldest", "newest", "example")}
