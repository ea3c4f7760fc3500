"""`segue db`: the schema of the coordinator's database.

Alembic is imported where it is needed: it takes longer to load than all the rest.
"""

from __future__ import annotations

from pathlib import Path

import typer

from segue.cli.connections import check_project, database_url
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.coordinator.reads import check_exists, parse_url, translated
from segue.errors import ConfigError
from segue.settings.embedded import make_private, make_private_file


def register(app: typer.Typer) -> None:
    """Add the noun."""
    database = typer.Typer(help="The schema of the coordinator's database.", no_args_is_help=True)
    for name, function in (("upgrade", upgrade), ("current", current), ("check", check), ("sql", sql)):
        command(database, name)(function)
    app.add_typer(database, name="db")


def upgrade(run: Invocation) -> None:
    """Bring the schema up to date; nothing happens if it is."""
    before, after = migrate(database_url(run))
    if run.out.json:
        run.out.document({"before": before, "after": after})
    else:
        run.out.line(f"up to date: {after}" if before == after else f"upgraded from {before or 'nothing'} to {after}")


def migrate(url: str) -> tuple[str | None, str | None]:
    """Bring the schema up to date; the revisions before and after."""
    from segue.migrations import runner

    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.database.startswith((":", "file:")):
        make_private(Path(parsed.database).parent)
        make_private_file(Path(parsed.database))
    with translated(parsed):
        before = runner.current(url)
        try:
            runner.upgrade(url)
        except runner.TablesInTheWay as error:
            raise ConfigError(f"database: {error}") from None
        return before, runner.current(url)


def current(run: Invocation) -> None:
    """Print the revision of the schema, and the newest one."""
    from segue.migrations import runner

    url = _existing(run)
    with translated(parse_url(url)):
        found = runner.current(url)
    newest = runner.head()
    if run.out.json:
        run.out.document({"current": found, "newest": newest, "up_to_date": found == newest})
    else:
        run.out.line(f"{found or 'no schema'}" + ("" if found == newest else f"; the newest is {newest}"))


def check(run: Invocation) -> None:
    """Compare the schema with what this version needs; exit code 1 if they differ."""
    from segue.migrations import runner

    url = _existing(run)
    with translated(parse_url(url)):
        differences = runner.check(url)
    if run.out.json:
        run.out.document({"ok": not differences, "differences": differences})
    else:
        for difference in differences:
            run.out.line(difference)
    if differences:
        raise Problem("the schema is not what this version needs; run `segue db upgrade`")
    if not run.out.json:
        run.out.line("the schema is what this version needs")


def sql(run: Invocation) -> None:
    """Print the statements that `upgrade` runs, for a database you change yourself."""
    from segue.migrations import runner

    text = runner.sql(database_url(run))
    if run.out.json:
        run.out.document({"sql": text})
    else:
        run.out.page(text)


def _existing(run: Invocation) -> str:
    check_project(run)
    url = database_url(run)
    check_exists(parse_url(url))
    return url
