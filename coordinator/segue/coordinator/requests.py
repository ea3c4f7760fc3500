"""What people asked for, applied on the path that messages take, with its audit entry in the same transaction."""

from __future__ import annotations

from base64 import b64decode
from typing import Literal

import msgspec

from segue.clock import from_micros
from segue.coordinator.intake import Intake
from segue.coordinator.signals import DROPPED, sent_again
from segue.coordinator.store import AuditEntry, Batch, DeadLetterRow, OperatorRequest, RequestKind
from segue.coordinator.work import Work
from segue.errors import DecodeError, InputError, SegueError, Unavailable
from segue.saga import inputs
from segue.saga.effects import Ignored
from segue.saga.events import NOTHING, NULL
from segue.topics.broker import Record
from segue.topics.deadletter import is_reference


class Arguments(msgspec.Struct, frozen=True):
    """The arguments of all kinds of requests; each kind uses its own."""

    step: str | None = None
    input: msgspec.Raw = NOTHING
    outcome: str = ""
    output: msgspec.Raw = NULL
    code: str = "resolved"
    compensate: str = "all"
    value: str | None = None
    #: Headers of a replayed record that are to be others; None takes one away.
    headers: dict[str, str | None] = {}


def apply_request(request: OperatorRequest, batch: Batch, work: Work, intake: Intake) -> None:
    """Apply one request; what can't be done is said in the audit, too. Its row is done either way.

    Raises Unavailable where it may succeed the next time.
    """
    try:
        before = _summary(work, request.saga_id)
    except InputError as error:
        refuse_request(request, work, f"refused: {error}")
        return
    try:
        arguments = arguments_of(request.arguments)
        outcome = _carry_out(request, arguments, batch, work, intake)
    except Unavailable:
        raise
    except SegueError as error:
        outcome = f"refused: {error}"
    _done(request, work, outcome, before=before, after=_summary(work, request.saga_id))


def refuse_request(request: OperatorRequest, work: Work, outcome: str) -> None:
    """Say in the audit why nothing was done, without a look at the saga, which may be the reason."""
    _done(request, work, outcome, before=None, after=None)


def _done(request: OperatorRequest, work: Work, outcome: str, *, before: str | None, after: str | None) -> None:
    work.changes.audits.append(
        AuditEntry(
            at=from_micros(work.now),
            actor=request.actor,
            action=request.kind,
            saga_id=request.saga_id,
            subject=_subject(request),
            reason=request.reason,
            before=before,
            after=after,
            outcome=outcome[:1024],
            request_id=request.id,
            database_role=request.database_role,
            system_user=request.system_user,
        )
    )
    work.changes.requests_done.append(request.id)


def _carry_out(request: OperatorRequest, arguments: Arguments, batch: Batch, work: Work, intake: Intake) -> str:
    if request.kind in ("replay", "discard"):
        return _dead_letter(request, arguments, batch, work, intake)
    if request.saga_id is None or not work.knows(request.saga_id):
        return f"refused: there is no saga {request.saga_id!r}"
    blocked = work.instance(request.saga_id).state.blocked is not None
    fresh = request.kind == "retry" and arguments.step is None and blocked
    if fresh and (kept := _kept(work, request.saga_id)):
        listed = ", ".join(map(str, kept[:5]))
        return f"refused: answers are kept for it that nobody can read; replay or discard dead letters {listed} first"
    result = work.happen(
        request.saga_id, input_of(request.kind, arguments, actor=request.actor, reason=request.reason), fresh=fresh
    )
    if isinstance(result, Ignored):
        return f"refused: {result.detail or result.reason}"
    still = work.instance(request.saga_id).state.blocked
    if fresh and still is not None:
        return f"still blocked: {still.code}: {still.message}"
    return "done"


def arguments_of(data: bytes) -> Arguments:
    """Arguments from their JSON. Raises DecodeError naming what is wrong."""
    try:
        return msgspec.json.decode(data, type=Arguments)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"arguments: {error}") from None


def input_of(kind: RequestKind, arguments: Arguments, *, actor: str, reason: str) -> inputs.Input:
    """The engine's input for a request of this kind. Raises DecodeError where an argument is missing or wrong."""
    if kind in ("skip", "resolve") and not arguments.step:
        raise DecodeError(f"a {kind} needs the argument 'step'")
    step = arguments.step or ""
    match kind:
        case "retry":
            return inputs.RetryStep(step=arguments.step, edited=arguments.input, actor=actor)
        case "skip":
            return inputs.SkipStep(step=step, reason=reason, actor=actor)
        case "resolve":
            if arguments.outcome not in ("success", "failure"):
                raise DecodeError(f"outcome={arguments.outcome!r}, allowed are success and failure")
            outcome: Literal["success", "failure"] = "success" if arguments.outcome == "success" else "failure"
            return inputs.ResolveStep(
                step=step, outcome=outcome, output=arguments.output, code=arguments.code, reason=reason, actor=actor
            )
        case "cancel":
            return inputs.Cancel(compensate=arguments.compensate, reason=reason, actor=actor)
        case "wake":
            return inputs.Wake(gate=0)
        case _:
            raise DecodeError(f"kind={kind!r} is not known to this version")


def _dead_letter(request: OperatorRequest, arguments: Arguments, batch: Batch, work: Work, intake: Intake) -> str:
    letter = batch.dead_letters([request.dead_letter_id or 0]).get(request.dead_letter_id or 0)
    if letter is None:
        return f"refused: there is no dead letter {request.dead_letter_id}"
    if letter.state in ("replayed", "discarded"):
        return f"refused: dead letter {letter.id} is {letter.state} already"
    if request.kind == "discard":
        work.changes.settled[letter.id] = "discarded"
        _unblock(letter, work, request.actor)
        return "done"
    return replay(letter, _edited(letter.record, arguments), work, intake, actor=request.actor)


def _edited(record: Record, arguments: Arguments) -> Record:
    """The record as a person wants it to be read. Raises DecodeError for a value that is no base64."""
    value = record.value
    if arguments.value is not None:
        try:
            value = b64decode(arguments.value, validate=True)
        except ValueError:
            raise DecodeError("value is not base64") from None
    kept = [pair for pair in record.headers if pair[0] not in arguments.headers]
    set_anew = [(name, text.encode()) for name, text in arguments.headers.items() if text is not None]
    return msgspec.structs.replace(record, value=value, headers=(*kept, *set_anew))


def replay(letter: DeadLetterRow, record: Record, work: Work, intake: Intake, *, actor: str) -> str:
    """Inject a dead letter's record as if it came now; nothing is published to any topic. Says what became of it."""
    if is_reference(record):
        return "refused: the record was too large to keep, here is only a reference to it; give a value, or discard it"
    item = intake.item(record)
    if item.request is not None:
        item = msgspec.structs.replace(item, request=sent_again(letter, item.request))
    if item.saga_id is not None:
        messages = () if item.request is None else ((item.saga_id, item.request.id),)
        work.prepare([item.saga_id], messages=messages)
    work.changes.replayed.append(letter.id)
    _unblock(letter, work, actor)
    letters = work.changes.dead_letters
    dead = len(letters)
    work.item(item)
    # Moving the saga may have given up other signals, too; and one that was parked has reached its saga now.
    here = (record.topic, record.partition, record.offset)
    own = [n for n in range(dead, len(letters)) if _place(letters[n]) == here]
    if own and not (letter.state == "parked" and letters[own[0]].reason in DROPPED):
        again = letters.pop(own[0])  # its row is there already
        return f"still dead: {again.reason}: {again.error_message}"
    work.changes.settled[letter.id] = "replayed"
    return "done"


def _place(letter: DeadLetterRow) -> tuple[str, int, int]:
    return letter.record.topic, letter.record.partition, letter.record.offset


def _unblock(letter: DeadLetterRow, work: Work, actor: str) -> None:
    """Letters that were kept for their saga blocked it; once a person has dealt with the last, the saga goes on.

    While there is another one its deadlines stand still: the answer that they wait for is there.
    """
    if letter.state != "received" or letter.saga_id is None or _kept(work, letter.saga_id, letter.id):
        return
    work.prepare([letter.saga_id])
    if work.knows(letter.saga_id) and work.instance(letter.saga_id).state.blocked is not None:
        work.happen(letter.saga_id, inputs.RetryStep(actor=actor), fresh=True)


def _kept(work: Work, saga_id: str, but: int | None = None) -> list[int]:
    """The dead letters that a saga still waits for."""
    settled = work.changes.settled
    return [n for n in work.batch.kept_for(saga_id) if n != but and n not in settled]


def _summary(work: Work, saga_id: str | None) -> str | None:
    if saga_id is None or not work.knows(saga_id):
        return None
    state = work.instance(saga_id).state
    return f"{state.status} {state.attention} revision {state.revision}"


def _subject(request: OperatorRequest) -> str | None:
    return None if request.dead_letter_id is None else f"dead letter {request.dead_letter_id}"
