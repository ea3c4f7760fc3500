"""`segue dlq`: records that nobody could use; look at them, replay them, discard them.

A replay is injected into the coordinator under the record's own identity; nothing goes to a shared topic again.
"""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import chain, islice
from typing import Annotated, Any

import typer

from segue.cli.arguments import read_argument, since_option
from segue.cli.asking import (
    WAIT_FOR,
    Actor,
    DryRun,
    Limit,
    Manner,
    NoWait,
    Rate,
    Reason,
    WaitFor,
    Wish,
    ask,
    manner,
    show_wishes,
)
from segue.cli.completing import dead_letters, saga_ids
from segue.cli.connections import reads
from segue.cli.escape import escape, excerpt
from segue.cli.invocation import Invocation, command
from segue.cli.out import Cell, moment_and_relative, relative
from segue.cli.plain import plain_dead_letter
from segue.coordinator.queries import DeadLetterFilter
from segue.coordinator.reads import Reads
from segue.coordinator.store import DeadLetterRow, RequestKind
from segue.errors import UsageError

#: Dead letters that still wait for somebody.
OPEN = ("received", "parked", "dead")

Ids = Annotated[list[int] | None, typer.Argument(metavar="[NUMBER]...", autocompletion=dead_letters)]
Saga = Annotated[
    str | None, typer.Option("--saga", metavar="ID", help="Only those of this saga.", autocompletion=saga_ids)
]
Since = Annotated[str | None, typer.Option("--since", metavar="WHEN", help="Stored since: 2h, 3d, or a time.")]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", metavar="HEX", help="Only this kind of error; its beginning is enough.")
]


class State(StrEnum):
    """What became of a dead letter."""

    received = "received"
    parked = "parked"
    dead = "dead"
    replayed = "replayed"
    discarded = "discarded"


class By(StrEnum):
    """What dead letters can have in common."""

    fingerprint = "fingerprint"
    reason = "reason"
    topic = "topic"


Cause = Annotated[
    str | None, typer.Option("--cause", metavar="WORD", help="Only those stored for this reason (`undecodable`, …).")
]


def register(app: typer.Typer) -> None:
    """Add the noun."""
    letters = typer.Typer(help="Records that nobody could use: list, show, replay, discard.", no_args_is_help=True)
    for name, function in (("ls", list_letters), ("show", show_letter), ("replay", replay), ("discard", discard)):
        command(letters, name)(function)
    app.add_typer(letters, name="dlq")


def list_letters(
    run: Invocation,
    state: Annotated[list[State] | None, typer.Option(help="Only these states; else those that still wait.")] = None,
    saga: Saga = None,
    fingerprint: Fingerprint = None,
    cause: Cause = None,
    topic: Annotated[str | None, typer.Option(help="Only those from this topic.")] = None,
    since: Since = None,
    group_by: Annotated[By | None, typer.Option(help="Count by what they have in common.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after the page before (its `next`).")
    ] = None,
) -> None:
    """List dead letters, oldest first."""
    found = reads(run)
    states = tuple(one.value for one in state) if state else OPEN
    wanted = DeadLetterFilter(
        states=states,
        saga_id=saga,
        fingerprint=fingerprint,
        reason=cause,
        topic=topic,
        since=since_option(since, found),
        coordinator=run.loaded.settings.coordinator.name,
    )
    if group_by is not None:
        _show_groups(run, found, wanted, group_by, limit)
        return
    page = found.dead_letters(wanted, limit, after, whole=False)
    if run.out.json:
        letters = [plain_dead_letter(letter, whole=False) for letter in page.items]
        run.out.document({"dead_letters": letters, "next": page.next})
    elif not page.items:
        run.out.note("no dead letters")
    else:
        headers = ("number", "state", "reason", "error", "fingerprint", "saga", "from", "stored", "replays")
        now = found.now()
        run.out.table(headers, (_list_row(letter, now) for letter in page.items))
        if page.next is not None:
            run.out.note(f"more: --after {page.next}")


def show_letter(
    run: Invocation, number: Annotated[int, typer.Argument(metavar="NUMBER", autocompletion=dead_letters)]
) -> None:
    """Show one dead letter with its record; `--json` has key, value and headers byte-identical, as base64."""
    found = reads(run)
    letter = found.dead_letter(number)
    if run.out.json:
        run.out.document(plain_dead_letter(letter, whole=True))
        return
    record = letter.record
    now = found.now()
    run.out.facts(
        (
            ("number", letter.id),
            ("state", letter.state),
            ("reason", letter.reason),
            ("error", f"{letter.error_class}: {letter.error_message}"),
            ("fingerprint", letter.fingerprint),
            ("saga", letter.saga_id),
            ("from", f"{record.topic}, partition {record.partition}, offset {record.offset}"),
            ("attempts", letter.attempts),
            ("replays", letter.replays),
            ("stored", moment_and_relative(letter.created_at, now)),
            ("last change", moment_and_relative(letter.updated_at, now)),
            ("key", excerpt(record.key)),
            *((f"header {escape(name)}", excerpt(value, 300)) for name, value in record.headers),
            ("value", f"{len(record.value or b''):,} bytes"),
        )
    )
    run.out.line(excerpt(record.value, 2000))


def replay(
    run: Invocation,
    numbers: Ids = None,
    saga: Saga = None,
    fingerprint: Fingerprint = None,
    cause: Cause = None,
    since: Since = None,
    value: Annotated[
        str | None, typer.Option(metavar="TEXT|@FILE", help="Another value than the stored one (one dead letter).")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT", help="Another header than the stored one; `NAME=` takes it away. Repeatable."
        ),
    ] = None,
    rate: Rate = None,
    limit: Limit = 1000,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Hand dead letters to the coordinator once more: named ones, or all that match."""
    how = manner(actor=actor, reason=reason, rate=rate, no_wait=no_wait, wait_for=wait_for, mandatory=False)
    arguments: dict[str, Any] = {}
    if value is not None:
        if len(numbers or ()) != 1:
            raise UsageError("--value needs the number of one dead letter")
        arguments["value"] = b64encode(read_argument(value)[0]).decode("ascii")
    if header:
        arguments["headers"] = _headers(header)
    found = reads(run)
    wanted = _filter(found, saga, fingerprint, cause, since)
    letters = _chosen(run, found, numbers, wanted, limit)
    _act(run, "replay", letters, arguments, how, dry_run=dry_run)


def _headers(options: list[str]) -> dict[str, str | None]:
    """Headers to be set, by name; None is one to be taken away."""
    headers: dict[str, str | None] = {}
    for option in options:
        name, is_given, text = option.partition("=")
        if not name or not is_given:
            raise UsageError(f"--header {option!r:.80}: write NAME=TEXT, or NAME= to take the header away")
        headers[name] = text or None
    return headers


def discard(
    run: Invocation,
    numbers: Ids = None,
    saga: Saga = None,
    fingerprint: Fingerprint = None,
    cause: Cause = None,
    since: Since = None,
    rate: Rate = None,
    limit: Limit = 1000,
    reason: Reason = None,
    actor: Actor = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    wait_for: WaitFor = WAIT_FOR,
) -> None:
    """Mark dead letters as dealt with: named ones, or all that match. They stay stored."""
    how = manner(actor=actor, reason=reason, rate=rate, no_wait=no_wait, wait_for=wait_for, mandatory=True)
    found = reads(run)
    wanted = _filter(found, saga, fingerprint, cause, since)
    _act(run, "discard", _chosen(run, found, numbers, wanted, limit), {}, how, dry_run=dry_run)


def _filter(
    found: Reads, saga: str | None, fingerprint: str | None, cause: str | None, since: str | None
) -> DeadLetterFilter | None:
    """The filter of a bulk action; None if no option restricts it."""
    if saga is None and fingerprint is None and cause is None and since is None:
        return None
    since_moment = since_option(since, found)
    return DeadLetterFilter(states=OPEN, saga_id=saga, fingerprint=fingerprint, reason=cause, since=since_moment)


def _chosen(
    run: Invocation, found: Reads, numbers: list[int] | None, wanted: DeadLetterFilter | None, limit: int
) -> Iterator[DeadLetterRow]:
    if numbers and wanted is not None:
        raise UsageError("name dead letters or choose them by --saga, --fingerprint, --cause or --since, not both")
    if numbers:
        # All are looked up before the first is asked for: a mistyped number must not leave half of them done.
        return iter([found.dead_letter(number) for number in dict.fromkeys(numbers)])
    if wanted is None:
        raise UsageError("name dead letters by number, or choose them with --saga, --fingerprint, --cause or --since")
    letters = found.all_dead_letters(dataclasses.replace(wanted, coordinator=run.loaded.settings.coordinator.name))
    return chain(islice(letters, limit), _more(run, letters, limit))


def _more(run: Invocation, letters: Iterator[DeadLetterRow], limit: int) -> Iterator[DeadLetterRow]:
    """Nothing, but a warning if there is more than the limit."""
    if next(letters, None) is not None:
        run.out.warn(f"more than {limit:,} dead letters match; the oldest {limit:,} are taken (--limit)")
    yield from ()


def _act(
    run: Invocation,
    kind: RequestKind,
    letters: Iterator[DeadLetterRow],
    arguments: dict[str, Any],
    how: Manner,
    *,
    dry_run: bool,
) -> None:
    wishes = (_wish(kind, letter, arguments) for letter in letters)
    if dry_run:
        show_wishes(run, kind, wishes)
    else:
        ask(run, kind, wishes, how)


def _wish(kind: RequestKind, letter: DeadLetterRow, arguments: dict[str, Any]) -> Wish:
    record = letter.record
    what = f"{letter.state}, {letter.reason}, from {record.topic}[{record.partition}]@{record.offset}"
    return Wish(
        dead_letter_id=letter.id,
        saga_id=letter.saga_id,
        arguments=arguments,
        accepted=letter.state in OPEN,
        effects=(what,),
    )


def _list_row(letter: DeadLetterRow, now: datetime) -> tuple[Cell, ...]:
    record = letter.record
    return (
        letter.id,
        letter.state,
        letter.reason,
        escape(letter.error_message, 80),
        letter.fingerprint,
        letter.saga_id,
        f"{record.topic}[{record.partition}]@{record.offset}",
        relative(letter.created_at, now),
        letter.replays,
    )


def _show_groups(run: Invocation, found: Reads, wanted: DeadLetterFilter, by: By, limit: int) -> None:
    groups = found.dead_letter_groups(wanted, by.value, limit)
    if run.out.json:
        names = ("key", "count", "oldest", "newest", "example", "message")
        plain = [{name: getattr(group, name) for name in names} for group in groups]
        run.out.document({"by": by.value, "groups": plain})
    elif not groups:
        run.out.note("no dead letters")
    else:
        headers = (by.value, "dead letters", "oldest", "last change", "for example", "error")
        rows = [(g.key, g.count, g.oldest, g.newest, g.example, escape(g.message, 80)) for g in groups]
        run.out.table(headers, rows)
