"""`segue audit`: the end of the audit, to be kept where who can write to the database can't."""

from __future__ import annotations

from dataclasses import asdict

import typer

from segue.cli.connections import reads
from segue.cli.invocation import Invocation, command
from segue.errors import NotFound


def register(app: typer.Typer) -> None:
    """Add the noun."""
    audits = typer.Typer(help="What people did to sagas and dead letters.", no_args_is_help=True)
    command(audits, "head")(head)
    app.add_typer(audits, name="audit")


def head(run: Invocation) -> None:
    """Print the end of the audit. Keep it elsewhere: `segue verify --audit-head` misses what is cut off since."""
    found = reads(run).audit_head()
    if found is None:
        raise NotFound("the audit has no line yet")
    if run.out.json:
        run.out.document(asdict(found))
    else:
        run.out.line(str(found))
