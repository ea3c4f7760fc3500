"""`segue topics`: which topics are needed, which are there, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from segue.cli.asking import WAIT_FOR, Actor, Reason, manner
from segue.cli.connections import is_embedded, kafka, store
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.out import Cell
from segue.coordinator.store import AuditEntry, StoredOffset
from segue.errors import ConfigError, NotFound, UsageError
from segue.settings import Settings
from segue.settings.deployment import limits_of, names_of
from segue.topics import admin
from segue.topics.admin import TopicSpec
from segue.topics.broker import Partition
from segue.topics.kafka import KafkaAdmin, KafkaConsumer

Services = Annotated[
    list[str] | None,
    typer.Option("--service", metavar="NAME", help="A service with a command topic, beside those the sagas call."),
]


class Form(StrEnum):
    """How a plan is printed."""

    table = "table"
    shell = "shell"
    terraform = "terraform"


def register(app: typer.Typer) -> None:
    """Add the noun."""
    topics = typer.Typer(help="The topics that Segue needs.", no_args_is_help=True)
    for name, function in (("plan", plan), ("create", create), ("verify", verify), ("skip", skip)):
        command(topics, name)(function)
    app.add_typer(topics, name="topics")


def plan(
    run: Invocation,
    service: Services = None,
    form: Annotated[Form, typer.Option("--as", help="A table, calls of kafka-topics, or Terraform.")] = Form.table,
) -> None:
    """Show which topics are needed and how they are to be made; Kafka is not asked."""
    specs = needed(run.loaded.settings, service or ())
    if run.out.json:
        run.out.document({"topics": [_plain(spec) for spec in specs]})
    elif form is Form.shell:
        run.out.page(admin.as_shell(specs, run.loaded.settings.kafka.bootstrap))
    elif form is Form.terraform:
        run.out.page(admin.as_terraform(specs))
    else:
        run.out.table(("topic", "partitions", "replicas", "configuration"), map(_row, specs))


def create(run: Invocation, service: Services = None) -> None:
    """Create the topics that are missing; those that are there are left as they are."""
    specs = needed(run.loaded.settings, service or ())
    if is_embedded(run):
        raise ConfigError("the embedded broker makes its topics itself; set kafka.bootstrap to create them elsewhere")
    created = admin.create(_admin(run), specs)
    there = [spec.name for spec in specs if spec.name not in created]
    if run.out.json:
        run.out.document({"created": created, "already_there": there})
    else:
        for name in created:
            run.out.line(f"created {name}")
        for name in there:
            run.out.line(f"already there: {name}")


def verify(run: Invocation, service: Services = None) -> None:
    """Compare the topics in Kafka with what is needed; exit code 1 if one is missing or would lose messages."""
    specs = needed(run.loaded.settings, service or ())
    problems = admin.verify(_admin(run), specs)
    errors = sum(problem.severity == "error" for problem in problems)
    if run.out.json:
        plain = [{"topic": one.topic, "severity": one.severity, "message": one.text} for one in problems]
        run.out.document({"ok": not errors, "checked": [spec.name for spec in specs], "problems": plain})
    elif problems:
        run.out.table(("severity", "problem"), [(one.severity, one.text) for one in problems])
    else:
        run.out.line(f"all is well: {', '.join(spec.name for spec in specs)}")
    if errors:
        raise Problem(f"{errors} of {len(specs)} topics are missing or wrong")


def skip(
    run: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", min=0)],
    offset: Annotated[int, typer.Argument(metavar="OFFSET", min=0)],
    reason: Reason = None,
    actor: Actor = None,
) -> None:
    """Go on behind the batch at OFFSET, where a partition of the coordinator's topics stands; audited.

    Answers may be in it: what is outstanding is asked for again before any deadline fires.
    """
    how = manner(actor=actor, reason=reason, rate=None, no_wait=True, wait_for=WAIT_FOR, mandatory=True)
    name, place = run.loaded.settings.coordinator.name, Partition(topic, partition)
    found = store(run)
    known = found.offsets(name).get(place)
    if known is None:
        raise NotFound(f"coordinator {name!r} does not read {topic} partition {partition}")
    if known.next != offset:
        raise UsageError(f"{topic} partition {partition} stands at offset {known.next}, not at {offset}")
    consumer = KafkaConsumer(kafka(run), group=None)
    run.closing.callback(consumer.close)
    if offset >= consumer.end_offsets([topic]).get(place, 0):
        raise UsageError(f"{topic} partition {partition} holds nothing at offset {offset}: there is nothing to skip")
    behind = consumer.readable_from(place, offset)
    if behind == offset:
        raise UsageError(
            f"{topic} partition {partition} can be read at offset {offset}: a coordinator will go on there by itself"
        )
    end = offset + 1 if behind is None else behind
    now = found.now()
    entry = AuditEntry(
        at=now,
        actor=how.actor,
        action="offset.skip",
        subject=f"{topic}[{partition}]@{offset}",
        reason=how.reason,
        before=str(offset),
        after=str(end),
    )
    found.reset_offset(name, place, known, StoredOffset(next=end, topic_id=known.topic_id, skipped_at=now), entry)
    if run.out.json:
        run.out.document({"topic": topic, "partition": partition, "from": offset, "to": end})
    else:
        run.out.line(f"{topic} partition {partition} goes on at offset {end}")


def needed(settings: Settings, services: Sequence[str]) -> list[TopicSpec]:
    """The topics of the coordinator, and the command topics of the services its sagas call."""
    found = set(services) | set(settings.topics.services)
    longest = timedelta()
    if settings.coordinator.sagas:
        from segue.cli.loading import load_sagas, services_of

        registry = load_sagas(settings.coordinator.sagas)
        found |= set(services_of(registry))
        longest = max((definition.deadline or timedelta() for definition in registry), default=longest)
    return admin.plan(
        names_of(settings),
        sorted(found),
        partitions=settings.topics.partitions,
        replication=settings.topics.replication,
        longest_deadline=longest,
        limits=limits_of(settings),
    )


def _admin(run: Invocation) -> KafkaAdmin:
    from segue.topics.kafka import KafkaAdmin

    made = KafkaAdmin(kafka(run))
    run.closing.callback(made.close)
    return made


def _row(spec: TopicSpec) -> tuple[Cell, ...]:
    texts = ", ".join(f"{name}={value}" for name, value in sorted(spec.configs.items()))
    return spec.name, spec.partitions, spec.replication, texts


def _plain(spec: TopicSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "partitions": spec.partitions,
        "replication": spec.replication,
        "configs": dict(spec.configs),
    }
