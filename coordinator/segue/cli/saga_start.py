"""`segue saga start`: ask the coordinator for a saga by the name of its type, and wait for its end if wanted.

It needs no code of the saga; where coordinator.sagas is set, the input is checked here first against its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import typer

from segue.cli.arguments import payload_argument, wait_option
from segue.cli.connections import kafka, reads
from segue.cli.exits import NotYet, Problem
from segue.cli.invocation import Invocation
from segue.cli.out import cell
from segue.cli.plain import as_json, plain_row
from segue.clock import SYSTEM_CLOCK, fresh_id
from segue.coordinator.queries import LIVE, DeadLetterFilter
from segue.coordinator.reads import Reads
from segue.coordinator.store import SagaRow
from segue.errors import (
    BrokerUnavailable,
    ConfigError,
    InvalidPayload,
    NotFound,
    SegueError,
    StartConflict,
    Unavailable,
)
from segue.limits import check_id
from segue.settings.deployment import codecs_of, limits_of, names_of
from segue.settings.values import did_you_mean
from segue.topics.broker import Outgoing
from segue.topics.codec import Codecs
from segue.topics.converter import Converter
from segue.topics.envelope import Request
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings

#: Seconds until Kafka must have acknowledged the start.
ACKNOWLEDGED = 15.0
#: Seconds between two looks at the saga: the first, and the longest.
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 0.5
_WAIT = "1m"
#: Seconds within which a coordinator that runs has refused a start, if it does.
REFUSED_WITHIN = 2.0

#: Why a coordinator refuses a start, and how that is told.
_REFUSALS: Mapping[str, type[SegueError]] = {
    "start_conflict": StartConflict,
    "unknown_saga_type": NotFound,
    "invalid_input": InvalidPayload,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A start, as it is asked for."""

    saga_id: str
    request_id: str
    coordinator: str
    definition: str
    body: bytes
    #: The type of the input; None where it is not known here: then it may be the same and look another, for only the
    #: coordinator knows what the type takes for granted.
    input_type: Any


def start_saga(
    run: Invocation,
    definition: Annotated[str, typer.Argument(metavar="TYPE", help="The saga's name, as in @saga(NAME).")],
    payload: Annotated[str, typer.Argument(metavar="JSON|@FILE", help="Its input; @- reads it from stdin.")] = "null",
    saga_id: Annotated[
        str | None, typer.Option("--id", help="Its id: the same id again is the same saga. Else a new one is made.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit code 1 unless it completes.")] = False,
    wait_for: Annotated[
        str, typer.Option("--wait-for", metavar="DURATION", help="How long to wait for its end (with --wait).")
    ] = _WAIT,
) -> None:
    """Start a saga."""
    body, input_type = checked_input(run, definition, payload_argument(payload, limits_of(run.loaded.settings)))
    patience = wait_option(wait_for)
    begun = Begun(
        saga_id=fresh_id() if saga_id is None else check_id("--id", saga_id),
        request_id=fresh_id(),
        coordinator=run.loaded.settings.coordinator.name,
        definition=definition,
        body=body,
        input_type=input_type,
    )
    found = reads(run) if wait else None
    taken = None if saga_id is None else _taken(run, begun)
    send_start(kafka(run), names_of(run.loaded.settings), begun, codecs_of(run.loaded.settings))
    if found is None:
        if taken is not None:
            _wait_for_refusal(taken, begun)
        _tell_asked(run, begun)
        return
    row = wait_for_end(run, found, begun, patience)
    if run.out.json:
        run.out.document(plain_row(row, overdue=False))
    else:
        _tell(run, row)
    if row.status != "completed":
        why = f"{row.error_code}: {row.error_message}" if row.error_message else row.error_code or "no error recorded"
        raise Problem(f"saga {row.id} is {row.status}: {why}; `segue saga show {row.id}` tells the whole story")


def checked_input(run: Invocation, name: str, body: bytes) -> tuple[bytes, Any]:
    """The input in the canonical form of its type, and that; as it is where the type is not known here.

    Raises InvalidPayload, NotFound.
    """
    specs = run.loaded.settings.coordinator.sagas
    if not specs:
        return body, None
    from segue.cli.loading import load_sagas

    registry = load_sagas(specs)
    definition = registry.newest(name)
    if definition is None:
        names = sorted({known.name for known in registry})
        raise NotFound(f"no saga is called {name!r}{did_you_mean(name, names)}; known here: {', '.join(names)}")
    converter = Converter(limits_of(run.loaded.settings))
    kind = definition.input_type
    return converter.to_bytes(converter.from_bytes(body, kind), kind), kind


def send_start(client: KafkaSettings, names: TopicNames, begun: Begun, codecs: Codecs) -> None:
    """Send the start; returns once Kafka has it. Raises BrokerUnavailable, ConfigError."""
    content_type, value = codecs.encode(names.requests, begun.definition, begun.body)
    request = Request(
        id=begun.request_id,
        action="start",
        saga_id=begun.saga_id,
        name=begun.definition,
        source="segue-cli",
        time=SYSTEM_CLOCK.now(),
        content_type=content_type,
    )
    send_request(client, names, request, value, f"start again with --id {begun.saga_id}")


def send_request(client: KafkaSettings, names: TopicNames, request: Request, body: bytes | None, again: str) -> None:
    """Send a request; returns once Kafka has it. Raises BrokerUnavailable, ConfigError; `again` is what to do then."""
    from segue.topics.kafka import KafkaProducer

    record = Outgoing(topic=names.requests, key=request.saga_id.encode(), value=body, headers=request.headers())
    errors: list[Exception] = []
    producer = KafkaProducer(client)
    try:
        producer.send(record, lambda error: errors.append(error) if error is not None else None)
        missing = producer.flush(ACKNOWLEDGED)
    finally:
        producer.close()
    for error in errors:
        raise error
    if missing:
        raise BrokerUnavailable(
            f"Kafka at {client.bootstrap} has not acknowledged the {request.action} within {ACKNOWLEDGED:g} s; it may "
            f"still arrive: {again}"
        )


def wait_for_end(run: Invocation, found: Reads, begun: Begun, patience: timedelta) -> SagaRow:
    """The row of the ended saga. Raises what the coordinator refused it for, or NotYet."""
    begin = SYSTEM_CLOCK.monotonic()
    pause = _FIRST_LOOK
    row: SagaRow | None = None
    with run.out.progress(f"waiting for {begun.saga_id}"):
        while True:
            waited = SYSTEM_CLOCK.monotonic() - begin
            row = _look(found, begun, told=waited >= REFUSED_WITHIN)
            if row is not None and row.status not in LIVE:
                return row
            left = patience.total_seconds() - waited
            if left <= 0:
                raise NotYet(_where(begun, row))
            SYSTEM_CLOCK.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK)


def _taken(run: Invocation, begun: Begun) -> Reads | None:
    """Where a saga with this id is seen already. Raises StartConflict where it is certain that it is another one.

    Who has access to Kafka alone may start sagas, too.
    """
    try:
        found = reads(run)
        row = found.saga(begun.saga_id)
    except NotFound:
        return None
    except (Unavailable, ConfigError) as error:
        run.out.warn(f"whether {begun.saga_id} is taken can't be seen: {error}")
        return None
    _check_same(row, begun)
    return found


def _wait_for_refusal(found: Reads, begun: Begun) -> None:
    """Raise what the coordinator refuses the start for, if it does soon; where it is seen that it won't, return."""
    give_up = SYSTEM_CLOCK.monotonic() + REFUSED_WITHIN
    while _look(found, begun, told=False) is None and SYSTEM_CLOCK.monotonic() < give_up:
        SYSTEM_CLOCK.sleep(_FIRST_LOOK)


def _look(found: Reads, begun: Begun, *, told: bool) -> SagaRow | None:
    """The row, once it is that of this start. `told`: a coordinator that refuses it would have said so by now."""
    for letter in found.dead_letters(DeadLetterFilter(saga_id=begun.saga_id), 1000).items:
        if letter.state != "parked" and ("ce_id", begun.request_id.encode()) in letter.record.headers:
            kind = _REFUSALS.get(letter.reason, Problem)
            raise kind(f"the start of {begun.saga_id} was refused ({letter.reason}): {letter.error_message}")
    try:
        row = found.saga(begun.saga_id)
    except NotFound:
        return None
    return row if _check_same(row, begun) or told or _began_it(found, begun) else None


def _check_same(row: SagaRow, begun: Begun) -> bool:
    """Whether it has the same input, as far as can be seen. Raises StartConflict where it is certain that not.

    The saga of an earlier start is there before the refusal of this one is.
    """
    if row.coordinator not in (begun.coordinator, ""):
        raise StartConflict(
            f"saga {row.id} is one of coordinator {row.coordinator!r}, which shares this database: ids are unique in it"
        )
    if row.definition != begun.definition:
        raise StartConflict(f"saga {row.id} is a {row.definition!r}, not a {begun.definition!r}")
    if begun.input_type is None:
        return bool(as_json(row.input) == as_json(begun.body))
    same = Converter().same(row.input, begun.body, begun.input_type)
    if not same:
        raise StartConflict(f"saga {row.id} was started with another input")
    return same


def _began_it(found: Reads, begun: Begun) -> bool:
    """Whether the saga's history begins with this very start."""
    history = found.history(begun.saga_id)
    return bool(history) and history[0].message_id == begun.request_id


def _where(begun: Begun, row: SagaRow | None) -> str:
    if row is None:
        return f"saga {begun.saga_id} has not begun yet; is a coordinator running (`segue coordinator run`)?"
    needs = f", {row.attention}" if row.attention != "none" else ""
    return f"saga {begun.saga_id} is still {row.status}{needs}; it waits for {row.waiting_for or 'its next step'}"


def _tell_asked(run: Invocation, begun: Begun) -> None:
    if run.out.json:
        run.out.document({"id": begun.saga_id, "request_id": begun.request_id, "status": None})
    else:
        run.out.line(begun.saga_id)


def _tell(run: Invocation, row: SagaRow) -> None:
    run.out.facts(
        (
            ("saga", row.id),
            ("status", cell(row.status)),
            ("result", None if row.result is None else str(as_json(row.result))),
        )
    )
