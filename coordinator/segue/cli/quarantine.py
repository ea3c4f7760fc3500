"""`segue relay ls` and `clear`: messages that no relay of relay.database, or the coordinator's, could publish."""

from __future__ import annotations

from typing import Annotated

import typer
from sqlalchemy import create_engine

from segue.cli.arguments import system_user
from segue.cli.asking import WAIT_FOR, Actor, Reason, manner
from segue.cli.connections import database_url, store
from segue.cli.escape import escape
from segue.cli.invocation import Invocation
from segue.coordinator.store import AuditEntry, Changes
from segue.errors import NotFound
from segue.outbox.search_path import keep_search_path
from segue.outbox.sql import SqlOutboxStore

Ids = Annotated[
    list[str], typer.Argument(metavar="MESSAGE...", help="Ids of messages, as `segue relay ls` shows them.")
]


def list_quarantined(run: Invocation) -> None:
    """List the messages in quarantine, oldest first, without what they contain."""
    rows = _outbox(run).quarantined()
    if run.out.json:
        run.out.document({"quarantined": [row._asdict() for row in rows]})
    elif not rows:
        run.out.note("nothing is in quarantine")
    else:
        cells = [(str(r.id), r.aggregatetype, escape(r.aggregateid, 40), r.attempts, escape(r.error, 80)) for r in rows]
        run.out.table(("message", "topic", "key", "attempts", "error"), cells)


def clear(run: Invocation, messages: Ids, reason: Reason = None, actor: Actor = None) -> None:
    """Delete messages from the quarantine, for good; audited where it is the coordinator's database."""
    how = manner(actor=actor, reason=reason, no_wait=True, wait_for=WAIT_FOR, mandatory=True)
    outbox = _outbox(run)
    known = {str(row.id) for row in outbox.quarantined()}
    wanted = list(dict.fromkeys(messages))
    missing = [one for one in wanted if one not in known]
    if missing:
        raise NotFound(f"message {missing[0]!r:.80} is not in quarantine; `segue relay ls` lists what is")
    if _url(run) == database_url(run):
        with store(run).batch() as batch:
            entries = [
                AuditEntry(
                    at=batch.now,
                    actor=how.actor,
                    action="quarantine.clear",
                    subject=one,
                    reason=how.reason,
                    system_user=system_user(),
                )
                for one in wanted
            ]
            batch.write(Changes(audits=entries))
    gone = outbox.clear(wanted)
    if run.out.json:
        run.out.document({"cleared": gone})
    else:
        run.out.line(f"cleared {len(gone):,} messages")


def _url(run: Invocation) -> str:
    return run.loaded.settings.relay.database or database_url(run)


def _outbox(run: Invocation) -> SqlOutboxStore:
    engine = keep_search_path(create_engine(_url(run), hide_parameters=True))
    run.closing.callback(engine.dispose)
    return SqlOutboxStore(engine)
