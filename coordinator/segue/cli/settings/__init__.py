"""Settings: `segue.toml`, environment and flags, validated once into frozen structs."""

from segue.cli.settings.load import Loaded, Origin, load
from segue.cli.settings.model import (
    EMBEDDED,
    CoordinatorSettings,
    KafkaSettings,
    RelaySettings,
    Settings,
    TopicsSettings,
    WorkerSettings,
)

__all__ = [
    "EMBEDDED",
    "CoordinatorSettings",
    "KafkaSettings",
    "Loaded",
    "Origin",
    "RelaySettings",
    "Settings",
    "TopicsSettings",
    "WorkerSettings",
    "load",
]
