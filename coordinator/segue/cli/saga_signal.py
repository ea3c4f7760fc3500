"""`segue saga signal ID NAME @payload.json`: tell a running saga something, and say what became of it."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.arguments import actor_option, payload_argument
from segue.cli.connections import kafka, reads
from segue.cli.invocation import Invocation
from segue.cli.saga_start import send_request
from segue.clock import SYSTEM_CLOCK, fresh_id
from segue.coordinator.queries import DeadLetterFilter
from segue.coordinator.reads import Reads
from segue.coordinator.signals import SignalView
from segue.coordinator.view import view_saga
from segue.errors import ConfigError, InvalidPayload, NotAllowed, NotFound, SegueError, Unavailable
from segue.ids import derive
from segue.limits import check_id, check_name
from segue.settings.deployment import codecs_of, limits_of, names_of
from segue.topics.envelope import Request

#: Seconds within which a coordinator that runs has taken or refused a signal.
TOLD_WITHIN = 2.0
_LOOK = 0.05


def signal_saga(
    run: Invocation,
    saga_id: Annotated[str, typer.Argument(metavar="ID")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal's name, as in Signal(NAME, ...).")],
    payload: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="Its value; @- reads it from stdin.")] = "null",
    message_id: Annotated[
        str | None, typer.Option("--id", help="However often it is sent under this id, it is received once.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Who sends it; else the user of the system.")] = None,
) -> None:
    """Send a signal to a saga; one that comes before its saga waits for it."""
    body = payload_argument(payload, limits_of(run.loaded.settings))
    check_name("signal", name)
    names = names_of(run.loaded.settings)
    content_type, value = codecs_of(run.loaded.settings).encode(names.requests, name, body)
    request = Request(
        id=fresh_id() if message_id is None else derive(saga_id, "signal", name, message_id),
        action="signal",
        saga_id=check_id("ID", saga_id),
        name=name,
        source=f"segue-cli/{actor_option(actor)}",
        time=SYSTEM_CLOCK.now(),
        content_type=content_type,
    )
    found = _seen(run, request, sent_before=message_id is not None)
    again = "send it again with the same --id" if message_id is not None else "see `segue saga show` before another try"
    send_request(kafka(run), names, request, value, again)
    status = "sent" if found is None else _became(found, request)
    if run.out.json:
        run.out.document({"id": request.saga_id, "signal": name, "request_id": request.id, "status": status})
    else:
        run.out.line(f"{name}: {status}")


def _seen(run: Invocation, request: Request, *, sent_before: bool) -> Reads | None:
    """Where its saga can be seen. Raises NotAllowed for one that receives nothing any more.

    Who has access to Kafka alone may send signals, too.
    """
    found: Reads | None = None
    try:
        found = reads(run)
        row = found.saga(request.saga_id)
    except NotFound:
        return found
    except (Unavailable, ConfigError) as error:
        run.out.warn(f"what becomes of the signal can't be seen: {error}")
        return None
    if row.status != "running" and not sent_before:
        raise NotAllowed(f"saga {row.id} is {row.status}: nobody receives the signal {request.name} any more")
    return found


def _became(found: Reads, request: Request) -> str:
    """What a coordinator made of it, if it does soon. Raises what it refused it for."""
    give_up = SYSTEM_CLOCK.monotonic() + TOLD_WITHIN
    while True:
        if (told := _told(found, request)) is not None:
            return told
        if SYSTEM_CLOCK.monotonic() >= give_up:
            return "sent; no coordinator has taken it yet"
        SYSTEM_CLOCK.sleep(_LOOK)


def _told(found: Reads, request: Request) -> str | None:
    for letter in found.dead_letters(DeadLetterFilter(saga_id=request.saga_id), 1000).items:
        if ("ce_id", request.id.encode()) not in letter.record.headers:
            continue
        if letter.state == "parked":
            return f"it waits for its saga: there is no {request.saga_id} yet"
        if letter.state == "dead":
            kind: type[SegueError] = InvalidPayload if letter.reason == "invalid_signal" else NotAllowed
            raise kind(f"the signal is dead letter {letter.id} ({letter.reason}): {letter.error_message}")
    try:
        view = view_saga(found, request.saga_id)
    except NotFound:
        return None
    mine = [signal for signal in view.signals if signal.id == request.id]
    return _where(mine[-1], [wait.what for wait in view.waits]) if mine else None


def _where(signal: SignalView, waits: list[str]) -> str:
    if signal.status == "received":
        return "received"
    now = f"; now the saga waits for {', '.join(waits)}" if waits else ""
    return f"it waits until the saga's code receives {signal.name}{now}"
