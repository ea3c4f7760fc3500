"""What the shell offers: ids of sagas, names of their steps, numbers of dead letters. Never an error, never slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError

if TYPE_CHECKING:
    from segue.coordinator.reads import Reads

#: Ids that are offered.
_MOST = 100


def saga_ids(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Ids that begin so, newest first, with what each is."""
    return list(_quietly(_sagas, ctx, incomplete))


def steps(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Steps of the saga that is named before, with their status."""
    return list(_quietly(_steps, ctx, incomplete))


def dead_letters(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Numbers of dead letters that still wait."""
    return list(_quietly(_letters, ctx, incomplete))


def _quietly(offer: Any, ctx: Any, incomplete: str) -> Iterator[tuple[str, str]]:
    try:
        with closing(_reads(ctx.params)) as found:
            yield from offer(found, ctx.params, incomplete)
    except SegueError:
        return  # the command itself will say what is wrong


def _reads(params: dict[str, Any]) -> Reads:
    from segue.coordinator.reads import Reads
    from segue.settings import load
    from segue.settings.deployment import database_of

    flags: dict[str, tuple[str, object]] = {}
    for pair in params.get("set_") or ():
        key, _, value = str(pair).partition("=")
        flags[key] = ("--set", value)
    if params.get("database"):
        flags["coordinator.database"] = ("--database", params["database"])
    config = params.get("config")
    loaded = load(file=Path(config) if config else None, environment=os.environ, flags=flags)
    return Reads(database_of(loaded.settings))


def _sagas(found: Reads, _: dict[str, Any], incomplete: str) -> Iterator[tuple[str, str]]:
    for row in found.begins_with(incomplete, _MOST):
        needs = f", {row.attention}" if row.attention != "none" else ""
        yield row.id, f"{row.definition}, {row.status}{needs}"


def _steps(found: Reads, params: dict[str, Any], incomplete: str) -> Iterator[tuple[str, str]]:
    from segue.coordinator.view import view_saga

    ids = params.get("ids") or [params.get("saga_id")]
    if not ids[0]:
        return
    for step in view_saga(found, str(ids[0])).steps:
        if step.name.startswith(incomplete):
            yield step.name, step.status


def _letters(found: Reads, _: dict[str, Any], incomplete: str) -> Iterator[tuple[str, str]]:
    from segue.coordinator.queries import DeadLetterFilter

    for letter in found.dead_letters(DeadLetterFilter(states=("received", "parked", "dead")), 1000).items:
        if str(letter.id).startswith(incomplete):
            yield str(letter.id), f"{letter.reason}: {letter.error_message}"[:80]
