"""`segue saga export`: histories as they are, for `segue.testing.replay`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, TextIO

import typer

from segue.cli.arguments import since_option
from segue.cli.completing import saga_ids
from segue.cli.connections import reads
from segue.cli.invocation import Invocation
from segue.clock import to_micros
from segue.coordinator.queries import SagaFilter
from segue.coordinator.reads import Reads, read_history, read_saga
from segue.errors import ConfigError, UsageError


def export_sagas(
    run: Invocation,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", autocompletion=saga_ids)] = None,
    definition: Annotated[str | None, typer.Option(help="All of this saga type.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Only sagas that are under way.")] = False,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="All that changed since.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many, newest first.")] = 1000,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; else to stdout.")
    ] = None,
) -> None:
    """Write histories as JSON lines, with which `segue.testing.replay` checks new code."""
    if bool(ids) == (definition is not None or live or since is not None):
        raise UsageError("name the sagas to export, or say which: --definition, --live, --since")
    if run.out.json and output is None:
        raise UsageError("an export is lines of JSON, not one document: leave out --json, or name a file with --output")
    found = reads(run)
    if not ids:
        wanted = SagaFilter(
            statuses=("running", "compensating") if live else (),
            definition=definition,
            since=since_option(since, found),
            coordinator=run.loaded.settings.coordinator.name,
        )
        ids = [row.id for row in islice(found.all_sagas(wanted), limit)]
    if output is None:
        for text in _histories(found, ids):
            run.out.page(text)
        return
    with _opened(output) as file:
        for text in _histories(found, ids):
            file.write(text)
    if run.out.json:
        run.out.document({"sagas": len(ids), "file": str(output)})
    else:
        run.out.note(f"{len(ids)} histories in {output}")


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _histories(found: Reads, ids: list[str]) -> Iterator[str]:
    """The present run of each saga, which is all that its code is replayed with. Raises NotFound."""
    from segue.testing.recorded import export

    for saga_id in ids:
        with found.snapshot() as connection:
            row = read_saga(connection, saga_id)
            events = read_history(connection, saga_id)
        yield export(((to_micros(one.at), one.payload) for one in events), saga_id, first_seq=row.first_seq)
