"""Histories as files, and new code checked against them.

A history is JSON lines, one line per transition, in the order of `seq`; a file may hold several sagas:

    {"saga": "order-17", "seq": 1, "at": 1700000000000000, "type": "Started", "payload": [{"e": "started", …}, …]}

`saga`     the saga's id; ids and random numbers of its code derive from it
`seq`      without gaps, from 1 or from the first transition of a later run
`at`       microseconds since 1970 (the database's time of the transition), or an RFC 3339 time
`type`     the first event's type; for people, ignored by `replay`
`payload`  the events of the transition, as they are in the table `saga_event`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from segue.clock import to_micros
from segue.errors import DecodeError
from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.failures import Nondeterminism
from segue.saga.fold import fold
from segue.saga.replay import of_last_run, rebuild
from segue.saga.runs import begins_run
from segue.saga.state import SagaState
from segue.testing.contracts import saga_of
from segue.topics.converter import Converter


class _Line(msgspec.Struct, kw_only=True):
    saga: str
    seq: int
    at: int | str
    payload: msgspec.Raw
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The transitions of one saga, (microseconds, payload) from `first_seq` on."""

    first_seq: int
    rows: list[tuple[int, bytes]] = field(default_factory=list)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Line)


def export(rows: Iterable[tuple[int, bytes]], saga_id: str, *, first_seq: int = 1) -> str:
    """The history of one saga as JSON lines; `rows` are (microseconds, payload) of its transitions from `first_seq`."""
    lines = [
        _Line(
            saga=saga_id,
            seq=seq,
            at=at,
            type=type(e.decode_events(payload)[0]).__name__,
            payload=msgspec.Raw(payload),
        )
        for seq, (at, payload) in enumerate(rows, first_seq)
    ]
    return "".join(_ENCODER.encode(line).decode() + "\n" for line in lines)


def replay(history: str | Path, definition: SagaDefinition[Any, Any], *, exact: bool = False) -> dict[str, str]:
    """Check that `definition` can go on with the sagas of an exported history (its text, or the file's path).

    Returns the status of each saga by its id. Raises Nondeterminism with the first difference: a coordinator with this
    code would block that saga. Raises DecodeError for a text that is no history. `exact`: retry policies
    and times must be the same, too, which no coordinator asks for. Sagas of other definitions are skipped.
    """
    converter = Converter()
    found: dict[str, str] = {}
    for saga_id, recorded in read_history(history).items():
        state = fold(saga_id, of_last_run(recorded.rows))
        if (state.definition, state.version) != (saga_of(definition).name, definition.version):
            continue
        _replay_one(state, recorded, definition, converter, exact)
        found[saga_id] = state.status
    if not found:
        raise DecodeError(f"the history holds no saga of {definition.name!r} version {definition.version}")
    return found


def read_history(history: str | Path) -> dict[str, Recorded]:
    """Saga id → its transitions. Raises DecodeError naming the line."""
    text = history.read_text(encoding="utf-8") if isinstance(history, Path) else history
    if "\n" not in text and not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    sagas: dict[str, Recorded] = {}
    for number, source in enumerate(text.splitlines(), 1):
        if not source.strip():
            continue
        try:
            line = _DECODER.decode(source)
            at = line.at if isinstance(line.at, int) else _moment(line.at)
        except (msgspec.MsgspecError, ValueError) as error:
            raise DecodeError(f"line {number} of the history: {error}") from None
        payload = bytes(line.payload)
        if line.saga not in sagas:
            sagas[line.saga] = Recorded(first_seq=line.seq if begins_run(payload) else 1)
        found = sagas[line.saga]
        if line.seq != (expected := found.first_seq + len(found.rows)):
            raise DecodeError(f"line {number} of the history: seq is {line.seq}, expected {expected}")
        found.rows.append((at, payload))
    return sagas


def _replay_one(
    state: SagaState,
    recorded: Recorded,
    definition: SagaDefinition[Any, Any],
    converter: Converter,
    exact: bool,
) -> None:
    of_run = of_last_run(recorded.rows)
    first_seq = recorded.first_seq + len(recorded.rows) - len(of_run)
    try:
        _rebuilt(state.id, of_run, definition, converter, exact)
    except Nondeterminism:
        # Where it begins is worth a second look; the whole at once is linear, this is not.
        for count in range(1, len(of_run) + 1):
            try:
                _rebuilt(state.id, of_run[:count], definition, converter, exact)
            except Nondeterminism as difference:
                kinds = ", ".join(type(event).__name__ for event in e.decode_events(of_run[count - 1][1]))
                seq = first_seq + count - 1
                raise Nondeterminism(f"saga {state.id}, transition {seq} ({kinds}): {difference}") from None
        raise


def _rebuilt(
    saga_id: str,
    rows: Sequence[tuple[int, bytes]],
    definition: SagaDefinition[Any, Any],
    converter: Converter,
    exact: bool,
) -> None:
    instance = rebuild(saga_id, rows, definition, converter, exact=exact)
    if instance.program is not None:
        instance.program.close()


def _moment(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return to_micros(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
