"""The topics a deployment needs: plan them, compare them with what is there, create them. Pure, but for the port.

Nothing is created at run time; `segue topics create` and the texts made here are for people and their pipelines.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Protocol

from segue.limits import DEFAULT_LIMITS, Limits
from segue.topics.deadletter import HEADER_BYTES, MOST_KEPT
from segue.topics.names import TopicNames, dead_letters_of

#: Retention of a topic whose sagas have short deadlines or none: Kafka's own default.
USUAL_RETENTION = timedelta(days=7)
#: Dead letters wait for people.
DEAD_LETTER_RETENTION = timedelta(days=30)
#: Bytes of a record beside payload and headers.
RECORD_OVERHEAD = 16 * 1024
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    #: Kafka's topic settings, as text.
    configs: Mapping[str, str] = field(default_factory=dict)
    #: A record must be there at least so long: the longest deadline of a saga that may wait for it.
    keep: timedelta = timedelta()
    #: Topics whose records it must be able to hold, with the headers of a dead letter.
    holds: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as it is; without `configs` where the broker tells none."""

    name: str
    partitions: int
    replication: int
    id: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a topic and what to do, as a sentence; an `error` loses messages or stops sagas."""

    topic: str
    severity: Literal["error", "warning"]
    text: str


class Admin(Protocol):
    """What planning needs of the broker."""

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of `names` that exist. Raises BrokerUnavailable, ConfigError (authorisation)."""
        ...

    def create(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """Create those that do not exist yet; the names of those created. Raises BrokerUnavailable, ConfigError."""
        ...


def plan(
    names: TopicNames,
    services: Sequence[str],
    *,
    partitions: int = 12,
    replication: int = 3,
    longest_deadline: timedelta = timedelta(),
    events: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> list[TopicSpec]:
    """The topics of a coordinator and of the services it commands, kept for longer than the longest deadline.

    Each service has one for dead letters: what does not go there a Python worker keeps in its database. They take
    larger messages than the topics that they are for, as a dead letter is the record with headers of its own.
    """
    largest = limits.composed.payload_bytes + limits.header_bytes + RECORD_OVERHEAD
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": _ms(max(USUAL_RETENTION, 2 * longest_deadline)),
        "max.message.bytes": str(largest),
        "min.insync.replicas": str(min(2, replication)),
    }
    dead_letters = {
        **configs,
        "retention.ms": _ms(max(DEAD_LETTER_RETENTION, 2 * longest_deadline)),
        "max.message.bytes": str(largest + HEADER_BYTES),
    }
    plain = [*dict.fromkeys(names.commands_of(service) for service in services), names.replies, names.requests]
    if events:
        plain.append(names.events)

    def spec(name: str, configs: Mapping[str, str], keep: timedelta, holds: Sequence[str] = ()) -> TopicSpec:
        return TopicSpec(
            name=name, partitions=partitions, replication=replication, configs=configs, keep=keep, holds=holds
        )

    dead: dict[str, list[str]] = {dead_letters_of(service): [names.commands_of(service)] for service in services}
    dead.setdefault(names.dlq, []).extend((names.replies, names.requests))
    return [
        *(spec(name, configs, longest_deadline) for name in plain),
        *(spec(name, dead_letters, timedelta(), holds) for name, holds in dead.items()),
    ]


def verify(admin: Admin, specs: Sequence[TopicSpec]) -> list[Problem]:
    """What is wrong with the topics that are there, the worst first. Raises what the port raises."""
    states = admin.topics([spec.name for spec in specs])
    problems: list[Problem] = []
    for spec in specs:
        state = states.get(spec.name)
        if state is None:
            text = f"topic {spec.name} does not exist; create it with `segue topics create`"
            problems.append(Problem(topic=spec.name, severity="error", text=text))
        else:
            problems += _differences(spec, state, [states[name] for name in spec.holds if name in states])
    return sorted(problems, key=lambda problem: problem.severity)


def create(admin: Admin, specs: Sequence[TopicSpec]) -> list[str]:
    """Create the topics that are missing; their names. Those that exist are left as they are."""
    there = admin.topics([spec.name for spec in specs])
    missing = [spec for spec in specs if spec.name not in there]
    return list(admin.create(missing)) if missing else []


def as_shell(specs: Sequence[TopicSpec], bootstrap: str) -> str:
    """The plan as calls of `kafka-topics`, one a line."""
    lines = []
    for spec in specs:
        words = ["kafka-topics", "--bootstrap-server", bootstrap, "--create", "--if-not-exists", "--topic", spec.name]
        words += ["--partitions", str(spec.partitions), "--replication-factor", str(spec.replication)]
        for name, value in spec.configs.items():
            words += ["--config", f"{name}={value}"]
        lines.append(shlex.join(words))
    return "\n".join(lines) + "\n"


def as_terraform(specs: Sequence[TopicSpec]) -> str:
    """The plan as `kafka_topic` resources of the Mongey/kafka provider."""
    blocks = []
    for spec in specs:
        configs = "\n".join(f"    {json.dumps(name)} = {json.dumps(value)}" for name, value in spec.configs.items())
        blocks.append(
            f'resource "kafka_topic" {json.dumps(_identifier(spec.name))} {{\n'
            f"  name               = {json.dumps(spec.name)}\n"
            f"  partitions         = {spec.partitions}\n"
            f"  replication_factor = {spec.replication}\n"
            f"  config = {{\n{configs}\n  }}\n}}\n"
        )
    return "\n".join(blocks)


def _differences(spec: TopicSpec, state: TopicState, held: Sequence[TopicState]) -> list[Problem]:
    found: list[Problem] = []

    def add(severity: Literal["error", "warning"], text: str) -> None:
        found.append(Problem(topic=spec.name, severity=severity, text=f"topic {spec.name} {text}"))

    if state.partitions < spec.partitions:
        add("warning", f"has {state.partitions} partitions where {spec.partitions} are planned; more processes idle")
    if state.replication < spec.replication:
        add(
            "warning",
            f"has {state.replication} replicas where {spec.replication} are planned; reassign its partitions, "
            "or it will not survive the loss of a broker",
        )
    if "compact" in state.configs.get("cleanup.policy", ""):
        policy = state.configs["cleanup.policy"]
        add("error", f"has cleanup.policy={policy}, which drops messages of one saga; set it to delete")
    _check_retention(spec, state, add)
    _check_size(spec, state, held, add)
    return found


class _Add(Protocol):
    def __call__(self, severity: Literal["error", "warning"], text: str) -> None: ...


def _check_retention(spec: TopicSpec, state: TopicState, add: _Add) -> None:
    kept = int(state.configs.get("retention.ms", -1))
    planned = int(spec.configs.get("retention.ms", -1))
    if kept < 0:
        return
    if kept * _MILLISECOND <= spec.keep:
        add(
            "error",
            f"keeps records for {kept * _MILLISECOND}, but a saga may wait {spec.keep} for one; "
            f"set retention.ms to {planned} or more",
        )
    elif 0 <= planned > kept:
        add(
            "warning",
            f"keeps records for {kept * _MILLISECOND} where {planned * _MILLISECOND} is planned; "
            f"set retention.ms to {planned}",
        )


def _check_size(spec: TopicSpec, state: TopicState, held: Sequence[TopicState], add: _Add) -> None:
    given, planned = state.configs.get("max.message.bytes"), spec.configs.get("max.message.bytes")
    if given is None or planned is None:
        return
    if int(given) < int(planned):
        add(
            "error", f"takes messages of {given} bytes, payloads may have {planned}; set max.message.bytes to {planned}"
        )
        return
    for other in held:
        needed = min(int(other.configs.get("max.message.bytes", 0)), MOST_KEPT) + HEADER_BYTES
        if int(given) < needed:
            add(
                "warning",
                f"takes messages of {given} bytes, too few for the largest of {other.name} with the headers of a dead "
                f"letter: such a one stays in the database; set max.message.bytes to {needed}",
            )


def _identifier(name: str) -> str:
    made = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return made if made[0].isalpha() or made[0] == "_" else f"_{made}"


def _ms(duration: timedelta) -> str:
    return str(duration // _MILLISECOND)
