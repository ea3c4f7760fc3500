"""`segue topics`: which topics are needed, which are there, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import typer

from segue.cli.connections import is_embedded, kafka
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.loading import load_sagas, services_of
from segue.cli.settings import Settings
from segue.cli.settings.durations import format_duration
from segue.cli.settings.load import TOPIC_ROLES, topic_names
from segue.errors import ConfigError
from segue.topics.admin import TopicSpec, TopicState
from segue.topics.kafka import KafkaAdmin
from segue.topics.names import TopicNames

Services = Annotated[
    list[str] | None,
    typer.Option("--service", metavar="NAME", help="A service with a command topic, beside those the sagas call."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A topic that is needed, what is there, and what is wrong with it; no problems: all is well."""

    spec: TopicSpec
    there: bool
    problems: Sequence[str] = ()


def register(app: typer.Typer) -> None:
    """Add the noun."""
    topics = typer.Typer(help="The topics that Segue needs.", no_args_is_help=True)
    for name, function in (("plan", plan), ("create", create), ("verify", verify)):
        command(topics, name)(function)
    app.add_typer(topics, name="topics")


def plan(run: Invocation, service: Services = None) -> None:
    """Show which topics are needed and how they are to be made; Kafka is not asked."""
    specs = needed(run.loaded.settings, service or ())
    if run.out.json:
        run.out.document({"topics": [_plain(spec) for spec in specs]})
    else:
        rows = [(spec.name, spec.partitions, _replicas(spec.replication), _texts(spec.configs)) for spec in specs]
        run.out.table(("topic", "partitions", "replicas", "configuration"), rows)


def create(run: Invocation, service: Services = None) -> None:
    """Create the topics that are missing; those that are there are left as they are."""
    specs = needed(run.loaded.settings, service or ())
    if is_embedded(run):
        raise ConfigError("the embedded broker makes its topics itself; set kafka.bootstrap to create them elsewhere")
    created = list(_admin(run).create(specs))
    there = [spec.name for spec in specs if spec.name not in created]
    if run.out.json:
        run.out.document({"created": created, "already_there": there})
    else:
        for name in created:
            run.out.line(f"created {name}")
        for name in there:
            run.out.line(f"already there: {name}")


def verify(run: Invocation, service: Services = None) -> None:
    """Compare the topics in Kafka with what is needed; exit code 1 if one is missing or dangerous."""
    specs = needed(run.loaded.settings, service or ())
    states = _admin(run).topics([spec.name for spec in specs])
    findings = [compare(spec, states.get(spec.name)) for spec in specs]
    bad = [finding for finding in findings if finding.problems]
    if run.out.json:
        plain = [{**_plain(one.spec), "there": one.there, "problems": list(one.problems)} for one in findings]
        run.out.document({"ok": not bad, "topics": plain})
    else:
        rows = [(one.spec.name, "; ".join(one.problems) or "well") for one in findings]
        run.out.table(("topic", "finding"), rows)
    if bad:
        raise Problem(
            f"{len(bad)} of {len(findings)} topics are missing or wrong; `segue topics create` makes missing ones"
        )


def names_of(settings: Settings) -> TopicNames:
    """The names of this deployment's topics."""
    return topic_names(settings.coordinator.name, {role: getattr(settings.topics, role) for role in TOPIC_ROLES})


def needed(settings: Settings, services: Sequence[str]) -> list[TopicSpec]:
    """The topics of the coordinator, and the command topics of the services its sagas call."""
    names = names_of(settings)
    found = set(services) | set(settings.topics.services)
    if settings.coordinator.sagas:
        found |= set(services_of(load_sagas(settings.coordinator.sagas)))
    wanted = [names.requests, names.replies, names.dlq, *(names.commands_of(service) for service in sorted(found))]
    retention = str(settings.topics.retention // timedelta(milliseconds=1))
    configs = {"cleanup.policy": "delete", "retention.ms": retention}
    return [
        TopicSpec(
            name=name,
            partitions=settings.topics.partitions,
            replication=settings.topics.replication,
            configs=configs,
        )
        for name in dict.fromkeys(wanted)
    ]


def compare(spec: TopicSpec, state: TopicState | None) -> Finding:
    """What is wrong with a topic. More partitions or replicas than planned, or longer retention, are well."""
    if state is None:
        return Finding(spec=spec, there=False, problems=("missing",))
    problems = []
    if "compact" in state.configs.get("cleanup.policy", ""):
        problems.append("is compacted: Kafka would drop all but the last message of a saga; set cleanup.policy=delete")
    retention = int(state.configs.get("retention.ms", "-1"))
    wanted = int(spec.configs["retention.ms"])
    if 0 <= retention < wanted:
        problems.append(
            f"keeps messages for {_milliseconds(retention)}, topics.retention asks for {_milliseconds(wanted)}"
        )
    if spec.replication > state.replication > 0:
        problems.append(f"has {state.replication} replicas, topics.replication asks for {spec.replication}")
    return Finding(spec=spec, there=True, problems=tuple(problems))


def _admin(run: Invocation) -> KafkaAdmin:
    admin = KafkaAdmin(kafka(run))
    run.closing.callback(admin.close)
    return admin


def _milliseconds(number: int) -> str:
    return format_duration(timedelta(milliseconds=number))


def _replicas(number: int) -> str:
    return "cluster's default" if number < 0 else str(number)


def _texts(configs: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(configs.items()))


def _plain(spec: TopicSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "partitions": spec.partitions,
        "replication": spec.replication,
        "configs": dict(spec.configs),
    }
