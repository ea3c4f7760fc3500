"""The documentation of the settings, made from their declaration: it can't drift."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from segue.settings.durations import format_duration
from segue.settings.model import Settings
from segue.settings.values import allowed, declared

_HEAD = """\
# Settings

Made by `segue config --doc`; the source is `segue.settings.model`.

A value comes from, first one wins: a flag (`--set coordinator.batch_size=100`, some have a flag of their own), the
environment, the file `segue.toml` (`--config FILE`, `SEGUE_CONFIG`), the default. `segue config` prints every value and
where it comes from, secrets masked.

* Every variable has a twin with `_FILE` at its end that names a file holding the value (Docker and Kubernetes secrets).
* A property of librdkafka can be set alone: `SEGUE_KAFKA_PROPERTIES_SASL_PASSWORD_FILE=/run/secrets/kafka`.
* Lists in the environment and in flags are separated by commas; durations are written `200ms`, `30s`, `5m`, `2h`, `7d`.
* An unknown section or name in the file is an error; an unknown `SEGUE_…` variable is a warning.
"""


def settings_page() -> str:
    """`docs/reference/settings.md`."""
    return _HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    settings = declared()
    for section in msgspec.structs.fields(Settings):
        yield f"\n## `[{section.name}]`\n\n{section.type.__doc__}\n\n"
        yield "| setting | variable | allowed | default | meaning |\n|---|---|---|---|---|\n"
        for setting in settings.values():
            if setting.section == section.name:
                default = _default(setting.default)
                yield (
                    f"| `{setting.name}` | `{setting.variable}` | {allowed(setting)} | {default} "
                    f"| {setting.meta.description} |\n"
                )


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, timedelta):
        return f"`{format_duration(value)}`"
    return f"`{value}`" if value or value == 0 else "none"
