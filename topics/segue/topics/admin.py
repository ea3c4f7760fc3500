"""The topics a deployment needs: plan them, compare them with what is there, create them. Pure, but for the port.

Nothing is created at run time; `segue topics create` and the texts made here are for people and their pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    #: Kafka's topic settings, as text.
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as it is; without `configs` where the broker tells none."""

    name: str
    partitions: int
    replication: int
    id: str = ""
    configs: Mapping[str, str] = field(default_factory=dict)


class Admin(Protocol):
    """What planning needs of the broker."""

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of `names` that exist. Raises BrokerUnavailable, ConfigError (authorisation)."""
        ...

    def create(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """Create those that do not exist yet; the names of those created. Raises BrokerUnavailable, ConfigError."""
        ...
