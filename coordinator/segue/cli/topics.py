"""`segue topics`: which topics are needed, which are there, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from segue.cli.connections import is_embedded, kafka
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.out import Cell
from segue.cli.topics_skip import skip
from segue.errors import ConfigError
from segue.settings import Settings
from segue.settings.deployment import limits_of, names_of
from segue.topics import admin
from segue.topics.admin import TopicSpec
from segue.topics.kafka import KafkaAdmin

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
