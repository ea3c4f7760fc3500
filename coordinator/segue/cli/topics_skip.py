"""`segue topics skip`: go on behind what nobody can read, where a coordinator or the workers of a service stand."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.arguments import system_user
from segue.cli.asking import WAIT_FOR, Actor, Reason, manner
from segue.cli.connections import kafka, store
from segue.cli.invocation import Invocation
from segue.coordinator.letters import announcement, letter_of
from segue.coordinator.store import AuditEntry, Changes, OffsetMove, OffsetNote
from segue.errors import DecodeError, NotFound, UsageError
from segue.settings.deployment import names_of
from segue.topics.broker import Partition, Record
from segue.topics.kafka import KafkaAdmin, KafkaConsumer
from segue.topics.obstacles import REASON


def skip(
    run: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", min=0)],
    offset: Annotated[int, typer.Argument(metavar="OFFSET", min=0)],
    service: Annotated[
        str | None, typer.Option("--service", metavar="NAME", help="Its workers stand there, and are stopped.")
    ] = None,
    reason: Reason = None,
    actor: Actor = None,
) -> None:
    """Go on behind the batch at OFFSET, where a partition stands; audited, with a dead letter in its place.

    Of a topic of the coordinator's, answers may be in it: what is outstanding is asked for again before any deadline
    fires. Of a service's commands (--service), what is in it is sent again after a while.
    """
    how = manner(actor=actor, reason=reason, rate=None, no_wait=True, wait_for=WAIT_FOR, mandatory=True)
    place = Partition(topic, partition)
    move = _of_coordinator(run, place, offset) if service is None else _of_workers(run, service, place, offset)
    found, names = store(run), names_of(run.loaded.settings)
    with found.batch() as batch:
        entry = AuditEntry(
            at=batch.now,
            actor=how.actor,
            action="offset.skip",
            subject=f"{topic}[{partition}]@{offset}",
            reason=how.reason,
            before=str(offset),
            after=str(move.end),
            system_user=system_user(),
        )
        letter = letter_of(
            Record(topic=topic, partition=partition, offset=offset),
            REASON,
            DecodeError(f"offsets {offset} to {move.end - 1}, skipped by {how.actor}: {how.reason}"),
            at=batch.now,
            coordinator=names.coordinator,
            topic_id=move.topic_id,
        )
        changes = Changes(audits=[entry], dead_letters=[letter], messages=[announcement(letter, names)])
        if service is None:
            batch.fence(names.coordinator, [move])
            changes.notes.append(OffsetNote(coordinator=names.coordinator, partition=place))
        batch.write(changes)
    if service is not None:
        _admin(run).set_group_offset(service, place, move.end)
    if run.out.json:
        run.out.document({"topic": topic, "partition": partition, "from": offset, "to": move.end})
    else:
        run.out.line(f"{topic} partition {partition} goes on at offset {move.end}")


def _of_coordinator(run: Invocation, place: Partition, offset: int) -> OffsetMove:
    name = run.loaded.settings.coordinator.name
    known = store(run).offsets(name).get(place)
    if known is None:
        raise NotFound(
            f"coordinator {name!r} does not read {place.topic} partition {place.number}; if the workers of a service "
            "do, say so: --service NAME"
        )
    _stands(place, known.next, offset)
    return OffsetMove(partition=place, start=offset, end=_behind(run, place, offset), topic_id=known.topic_id)


def _of_workers(run: Invocation, service: str, place: Partition, offset: int) -> OffsetMove:
    admin = _admin(run)
    known = admin.group_offset(service, place)
    if known is None:
        raise NotFound(f"the workers of {service!r} have read nothing of {place.topic} partition {place.number}")
    _stands(place, known, offset)
    if admin.has_members(service):
        raise UsageError(f"workers of {service!r} run, and would not notice: stop them first, and start them again")
    topic_id = admin.topic_ids([place.topic])[place.topic]
    return OffsetMove(partition=place, start=offset, end=_behind(run, place, offset), topic_id=topic_id)


def _stands(place: Partition, at: int, offset: int) -> None:
    if at != offset:
        raise UsageError(f"{place.topic} partition {place.number} stands at offset {at}, not at {offset}")


def _behind(run: Invocation, place: Partition, offset: int) -> int:
    """Where reading goes on. Raises UsageError where nothing is to be skipped."""
    where = f"{place.topic} partition {place.number}"
    consumer = KafkaConsumer(kafka(run), group=None)
    run.closing.callback(consumer.close)
    if offset >= consumer.end_offsets([place.topic]).get(place, 0):
        raise UsageError(f"{where} holds nothing at offset {offset}: there is nothing to skip")
    behind = consumer.readable_from(place, offset)
    if behind == offset:
        raise UsageError(f"{where} can be read at offset {offset}: whoever stands there will go on by itself")
    return offset + 1 if behind is None else behind


def _admin(run: Invocation) -> KafkaAdmin:
    admin = KafkaAdmin(kafka(run))
    run.closing.callback(admin.close)
    return admin
