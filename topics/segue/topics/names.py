"""Names of topics: templates with `{coordinator}` and `{service}`, checked once."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from segue.errors import ConfigError
from segue.limits import MAX_COORDINATOR_LENGTH

_LEGAL = re.compile(r"[A-Za-z0-9._\-]{1,249}")
_ALLOWED = {"commands": {"coordinator", "service"}}
_ROLES = ("commands", "replies", "requests", "dlq", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicNames:
    """The topics of one deployment. Raises ConfigError for a template that can't be filled or makes an illegal name.

    `services` names the command topic of single services, where it does not follow the template.
    """

    coordinator: str
    commands: str = "{service}.commands"
    replies: str = "{coordinator}.replies"
    requests: str = "{coordinator}.requests"
    dlq: str = "{coordinator}.dlq"
    events: str = "{coordinator}.events"
    services: Mapping[str, str] = field(default_factory=dict)
    #: Answers of `commands_of`: it is asked for each command, and there are few services.
    _commands: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if _LEGAL.fullmatch(self.coordinator) is None:
            raise ConfigError(f"coordinator.name is {self.coordinator!r}; allowed are A-Z a-z 0-9 . _ -")
        if len(self.coordinator) > MAX_COORDINATOR_LENGTH:
            raise ConfigError(
                f"coordinator.name has {len(self.coordinator)} characters, allowed are {MAX_COORDINATOR_LENGTH}: it is "
                "part of the key of every command"
            )
        for role in _ROLES:
            _check_template(role, getattr(self, role))
        if "{service}" not in self.commands:
            raise ConfigError(f"topics.commands is {self.commands!r}; it must contain {{service}}")
        # set once, here: what is frozen is what was checked
        for role in _ROLES[1:]:
            filled = getattr(self, role).format(coordinator=self.coordinator)
            object.__setattr__(self, role, legal(f"topics.{role}", filled))
        for service, topic in self.services.items():
            legal(f"topics.services.{service}", topic)
        self._check_distinct()

    def commands_of(self, service: str) -> str:
        """The topic on which `service` takes commands. Raises ConfigError where the name is not a legal one."""
        known = self._commands.get(service)
        if known is None:
            known = self._commands[service] = self._named(service)
        return known

    def _named(self, service: str) -> str:
        given = self.services.get(service)
        if given is not None:
            return given
        name = self.commands.format(service=service, coordinator=self.coordinator)
        if name in (self.replies, self.requests, self.dlq, self.events):
            raise ConfigError(
                f"the command topic of service {service!r} is {name!r}, which is a topic of coordinator "
                f"{self.coordinator!r}; give it another one in topics.services"
            )
        return legal(f"the command topic of service {service!r}", name)

    def _check_distinct(self) -> None:
        taken: dict[str, str] = {}
        roles = [(f"topics.{role}", str(getattr(self, role))) for role in _ROLES[1:]]
        # Kafka's metrics can't tell . from _, and refuses two topics that differ only there.
        for setting, name in roles:
            other = taken.setdefault(name.replace(".", "_"), setting)
            if other != setting:
                raise ConfigError(f"{setting} and {other} are both {name!r}; every role needs a topic of its own")
        for service, topic in self.services.items():
            other = taken.get(topic.replace(".", "_"), "")
            if other:
                raise ConfigError(
                    f"topics.services.{service} and {other} are both {topic!r}; every role needs a topic of its own"
                )


def dead_letters_of(worker: str) -> str:
    """The topic of a worker's own dead letters, where its code names no other."""
    return f"{worker}.dlq"


@lru_cache(maxsize=1024)
def is_legal(name: str) -> bool:
    """Whether Kafka takes `name` as a topic's name."""
    return name not in (".", "..") and _LEGAL.fullmatch(name) is not None


def legal(what: str, name: str) -> str:
    """Return `name` if Kafka takes it as a topic's name, else raise ConfigError."""
    if not is_legal(name):
        raise ConfigError(f"{what} is {name!r:.300}; a topic's name is 1 to 249 of A-Z a-z 0-9 . _ -")
    return name


def _check_template(role: str, template: str) -> None:
    allowed = _ALLOWED.get(role, {"coordinator"})
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"topics.{role} is {template!r}: {error}") from None
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in allowed or spec or conversion:
            places = " and ".join(f"{{{place}}}" for place in sorted(allowed))
            raise ConfigError(f"topics.{role} is {template!r}; the only placeholders it may have are {places}")
