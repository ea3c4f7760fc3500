"""`segue saga retry|skip|resolve|cancel`: what a person can do to a saga that does not move by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import typer

from segue.cli.arguments import payload_argument, since_option
from segue.cli.asking import (
    WAIT_FOR,
    Actor,
    DryRun,
    Limit,
    NoWait,
    Rate,
    Reason,
    WaitFor,
    Wish,
    ask,
    manner,
    show_wishes,
)
from segue.cli.completing import saga_ids, steps
from segue.cli.connections import reads
from segue.cli.invocation import Invocation, command
from segue.clock import to_micros
from segue.coordinator.queries import SagaFilter
from segue.coordinator.reads import Reads, database_now, read_history, read_saga
from segue.errors import DecodeError, InputError, UsageError
from segue.saga.fold import fold
from segue.settings.deployment import limits_of
from segue.topics.codec import JsonCodec

Kind = Literal["retry", "skip", "resolve", "cancel"]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", autocompletion=saga_ids)]
OneId = Annotated[str, typer.Argument(metavar="ID", autocompletion=saga_ids)]
StepName = Annotated[str, typer.Argument(metavar="STEP", autocompletion=steps)]


class Outcome(StrEnum):
    """What a person knows about a step."""

    success = "success"
    failure = "failure"


def register(sagas: typer.Typer) -> None:
    """Add the actions to the noun."""
    for name, function in (("retry", retry), ("skip", skip), ("resolve", resolve), ("cancel", cancel)):
        command(sagas, name)(function)


def retry(
    run: Invocation,
    ids: Ids = None,
    step: Annotated[
        str | None, typer.Option(help="Only this step; else all that wait for a person.", autocompletion=steps)
    ] = None,
    edited: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE", help="Another input for the step (one saga, one step)."),
    ] = None,
    error: Annotated[
        str | None, typer.Option(metavar="CODE", help="All that need a person with this error code.")
    ] = None,
    definition: Annotated[str | None, typer.Option(help="All of this saga type that need a person.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="All that changed since.")] = None,
    rate: Rate = None,
    limit: Limit = 1000,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Try again what is parked, in doubt, deferred or blocked: named sagas, or all that match."""
    how = manner(actor=actor, reason=reason, rate=rate, no_wait=no_wait, wait_for=wait_for, mandatory=False)
    arguments: dict[str, Any] = {"step": step}
    found = reads(run)
    if edited is not None:
        if step is None or len(ids or ()) != 1:
            raise UsageError("--input needs one saga and --step: an input belongs to one step")
        assert ids is not None
        arguments["input"] = msgspec.Raw(_edited(run, found, ids[0], step, edited))
    if ids:
        _no_filters(error, definition, since)
        chosen: Iterator[str] = iter(ids)
    elif error is None and definition is None and since is None:
        raise UsageError("name sagas, or choose them with --error, --definition or --since")
    else:
        chosen = _matching(run, found, _needing_a_person(error, definition, since_option(since, found)), limit)
    _act(run, found, "retry", chosen, arguments, how, dry_run=dry_run)


def skip(
    run: Invocation,
    saga_id: OneId,
    step: StepName,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Go on without a step that waits for a person, or leave its deferred compensation undone."""
    how = manner(actor=actor, reason=reason, no_wait=no_wait, wait_for=wait_for, mandatory=True)
    _act(run, reads(run), "skip", iter([saga_id]), {"step": step}, how, dry_run=dry_run)


def resolve(
    run: Invocation,
    saga_id: OneId,
    step: StepName,
    outcome: Annotated[Outcome, typer.Option(help="What really happened; failure: it had no effect.")],
    output: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="What the step answered (with --outcome success).")
    ] = None,
    code: Annotated[str | None, typer.Option(help="The error code the saga sees (with --outcome failure).")] = None,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Settle a step whose outcome only a person knows."""
    how = manner(actor=actor, reason=reason, no_wait=no_wait, wait_for=wait_for, mandatory=True)
    if output is not None and outcome is Outcome.failure:
        raise UsageError("--output belongs to --outcome success: a failed step has none")
    if code is not None and outcome is Outcome.success:
        raise UsageError("--code belongs to --outcome failure")
    decoded = None if output is None else msgspec.Raw(payload_argument(output, limits_of(run.loaded.settings)))
    arguments = {"step": step, "outcome": outcome.value, "output": decoded} | ({} if code is None else {"code": code})
    _act(run, reads(run), "resolve", iter([saga_id]), arguments, how, dry_run=dry_run)


def cancel(
    run: Invocation,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", autocompletion=saga_ids)],
    compensate: Annotated[
        str,
        typer.Option(metavar="all|none|to:STEP", help="What to undo; to:STEP keeps that step and what was before it."),
    ] = "all",
    rate: Rate = None,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Stop sagas and undo what they did."""
    how = manner(actor=actor, reason=reason, rate=rate, no_wait=no_wait, wait_for=wait_for, mandatory=True)
    if compensate not in ("all", "none") and not (compensate.startswith("to:") and compensate[3:]):
        raise UsageError(f"--compensate {compensate!r}: allowed are all, none and to:STEP")
    _act(run, reads(run), "cancel", iter(ids), {"compensate": compensate}, how, dry_run=dry_run)


def _act(
    run: Invocation,
    found: Reads,
    kind: Kind,
    ids: Iterator[str],
    arguments: Mapping[str, Any],
    how: Any,
    *,
    dry_run: bool,
) -> None:
    if dry_run:
        show_wishes(run, kind, (_previewed(found, kind, saga_id, arguments, how) for saga_id in ids))
        return
    # All are looked up before the first is asked for: a mistyped id must not leave half of them done.
    wishes = [Wish(saga_id=found.saga(saga_id).id, arguments=arguments) for saga_id in dict.fromkeys(ids)]
    if not wishes:
        run.out.note("no saga matches")
    ask(run, kind, wishes, how)


def _edited(run: Invocation, found: Reads, saga_id: str, step: str, text: str) -> bytes:
    """The input that a person gives to a step; to its compensation, which gets two payloads in one, a longer one.

    Raises InputError where it is more than whoever gets it would take.
    """
    limits = limits_of(run.loaded.settings)
    body = payload_argument(text, limits.composed)
    try:
        JsonCodec(limits).decode(body)
    except DecodeError as error:
        if not _waits_for_its_undo(found, saga_id, step):
            raise InputError(f"the input of {step} can't be used: {error}") from None
    return body


def _waits_for_its_undo(found: Reads, saga_id: str, step: str) -> bool:
    row = found.saga(saga_id)
    state = fold(row.id, ((to_micros(event.at), event.payload) for event in found.history(row.id)))
    return step in state.steps and state.steps[step].undo.status == "deferred"


def _previewed(found: Reads, kind: Kind, saga_id: str, arguments: Mapping[str, Any], how: Any) -> Wish:
    with found.snapshot() as connection:
        row = read_saga(connection, saga_id)
        history = read_history(connection, saga_id)
        now = database_now(connection)
    from segue.coordinator.preview import preview
    from segue.coordinator.requests import arguments_of, input_of

    encoded = msgspec.json.encode(arguments)
    request = input_of(kind, arguments_of(encoded), actor=how.actor, reason=how.reason)
    accepted, effects = preview(row.id, history, request, now)
    return Wish(saga_id=row.id, arguments=arguments, accepted=accepted, effects=effects)


def _needing_a_person(error: str | None, definition: str | None, since: Any) -> SagaFilter:
    attentions = ("parked", "blocked", "deferred", "in_doubt")
    return SagaFilter(attentions=attentions, error=error, definition=definition, since=since)


def _matching(run: Invocation, found: Reads, wanted: SagaFilter, limit: int) -> Iterator[str]:
    wanted = replace(wanted, coordinator=run.loaded.settings.coordinator.name)
    total = found.count(wanted)
    if total > limit:
        run.out.warn(f"{total:,} sagas match; the newest {limit:,} are taken (--limit)")
    return (row.id for row in islice(found.all_sagas(wanted), limit))


def _no_filters(*filters: str | None) -> None:
    if any(value is not None for value in filters):
        raise UsageError("name sagas or choose them by --error, --definition or --since, not both")
