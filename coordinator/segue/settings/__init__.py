"""Settings: `segue.toml`, environment and flags, validated once into frozen structs."""

from segue.settings.load import Loaded, Origin, load
from segue.settings.model import (
    EMBEDDED,
    AvroSettings,
    CoordinatorSettings,
    KafkaSettings,
    LimitsSettings,
    RelaySettings,
    Settings,
    TopicsSettings,
    WorkerSettings,
)

__all__ = [
    "EMBEDDED",
    "AvroSettings",
    "CoordinatorSettings",
    "KafkaSettings",
    "LimitsSettings",
    "Loaded",
    "Origin",
    "RelaySettings",
    "Settings",
    "TopicsSettings",
    "WorkerSettings",
    "load",
]
