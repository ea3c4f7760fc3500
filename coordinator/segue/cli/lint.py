"""`segue lint`: what in the code of sagas may do something else when they are replayed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segue.cli.connections import saga_specs
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.loading import load_sagas
from segue.errors import UsageError
from segue.saga.lint import lint


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "lint")(lint_sagas)


def lint_sagas(
    run: Invocation,
    sagas: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE[:SAGA]]...", help="Else those of coordinator.sagas.")
    ] = None,
) -> None:
    """Name the lines of sagas that go over a set: its order is another one in each process."""
    specs = saga_specs(run, sagas)
    if not specs:
        raise UsageError("name modules with sagas, or set coordinator.sagas")
    registry = load_sagas(specs)
    warnings = [warning for definition in registry for warning in lint(definition)]
    if run.out.json:
        run.out.document({"sagas": len(registry), "warnings": [asdict(warning) for warning in warnings]})
    else:
        for warning in warnings:
            run.out.line(f"{warning.file}:{warning.line}: saga {warning.saga}: {warning.what}")
    if warnings:
        raise Problem(f"{len(warnings)} lines of {len(registry)} sagas may do something else at a replay")
