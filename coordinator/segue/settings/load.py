"""Where settings come from: flag before environment before file before default; every value knows its origin.

Nothing is read twice and nothing is read later: what `load` returns is what the process runs with.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from segue.errors import ConfigError
from segue.settings.masking import MASK, is_secret_property
from segue.settings.model import Settings
from segue.settings.values import Setting, convert, declared, did_you_mean, masked
from segue.topics.names import TopicNames
from segue.topics.settings import KafkaSettings as ClientSettings

FILE_NAME = "segue.toml"
PREFIX = "SEGUE_"
PROPERTIES = "kafka.properties"
#: Variables with our prefix that are no settings: `SEGUE_CONFIG` names the file, `SEGUE_TEST_…` and `SEGUE_FAILPOINTS`
#: belong to tests, the others are what Kubernetes adds to every pod for a service called `segue` or `segue-…`.
_NOT_OURS = re.compile(r"SEGUE_(CONFIG|TEST_.*|FAILPOINTS)|.*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")
#: Settings of `[topics]` that name topics.
TOPIC_ROLES = ("commands", "requests", "replies", "dlq", "events", "services")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value comes from; `name` is the flag, the variable or the file."""

    kind: Literal["flag", "environment", "file", "default"]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Valid settings, where each value comes from (`kafka.properties.NAME` for single properties), and warnings."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()
    path: Path | None = None

    def value(self, key: str) -> Any:
        """The value of `section.name`."""
        section, _, name = key.partition(".")
        return getattr(getattr(self.settings, section), name)


class _Loading:
    """Collects values by precedence (later ones win) and every problem on the way."""

    def __init__(self) -> None:
        self.declared = declared()
        self.values: dict[str, Any] = {key: setting.default for key, setting in self.declared.items()}
        self.origins = {key: Origin(kind="default") for key in self.declared}
        self.properties: dict[str, tuple[Any, Origin]] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def put(self, key: str, value: object, origin: Origin) -> None:
        if key.startswith(f"{PROPERTIES}."):
            self.put_property(key.removeprefix(f"{PROPERTIES}."), value, origin)
            return
        if key == PROPERTIES and isinstance(value, dict):
            for name, property_value in value.items():
                self.put_property(name, property_value, origin)
            return
        setting = self.declared.get(key)
        if setting is None:
            self.problems.append(f"{origin}: there is no setting {key}{did_you_mean(key, list(self.declared))}")
            return
        try:
            found = convert(setting, value)
        except ValueError as error:
            self.problems.append(f"{key} ({origin}) is {masked(setting, value)}, {error}")
            return
        if key == PROPERTIES:
            self.put(key, found, origin)
            return
        self.values[key] = found
        self.origins[key] = origin

    def put_property(self, name: str, value: object, origin: Origin) -> None:
        if isinstance(value, dict):
            # `sasl.password = "…"` without quotes is a table within a table to TOML.
            for rest, inner in value.items():
                self.put_property(f"{name}.{rest}", inner, origin)
        elif not isinstance(value, str | int | float | bool):
            shown = MASK if is_secret_property(name) else repr(value)
            self.problems.append(f"{PROPERTIES}.{name} ({origin}) is {shown}, expected a text, a number or true/false")
        else:
            try:
                ClientSettings(bootstrap="any", properties={name: value})
            except ConfigError as error:
                self.problems.append(f"{error} ({origin})")
            self.properties[name] = (value, origin)

    def finish(self, path: Path | None) -> Loaded:
        self.values[PROPERTIES] = {name: value for name, (value, _) in sorted(self.properties.items())}
        for name, (_, origin) in self.properties.items():
            self.origins[f"{PROPERTIES}.{name}"] = origin
            self.origins[PROPERTIES] = origin
        self.problems += _relations(self.values, self.origins)
        if self.problems:
            raise ConfigError("\n".join(self.problems))
        sections: dict[str, dict[str, Any]] = {}
        for key, value in self.values.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        settings = Settings(
            **{field.name: field.type(**sections[field.name]) for field in msgspec.structs.fields(Settings)}
        )
        return Loaded(
            settings=settings,
            origins=MappingProxyType(self.origins),
            warnings=tuple(self.warnings),
            path=path,
        )


def load(
    *,
    file: Path | None = None,
    directory: Path = Path(),
    environment: Mapping[str, str],
    flags: Mapping[str, tuple[str, object]] | None = None,
) -> Loaded:
    """Read, merge and check all settings. `flags`: key → (name of the flag, value).

    Without `file`, SEGUE_CONFIG names it; without that it is `segue.toml` in `directory`, if there is one. Raises
    ConfigError with one sentence per problem, all of them at once.
    """
    loading = _Loading()
    path = _path(file, directory, environment)
    if path is not None:
        _read_file(loading, path)
    _read_environment(loading, environment)
    for key, (flag, value) in (flags or {}).items():
        loading.put(key, value, Origin(kind="flag", name=flag))
    return loading.finish(path)


def _path(file: Path | None, directory: Path, environment: Mapping[str, str]) -> Path | None:
    named = file or (Path(environment["SEGUE_CONFIG"]) if environment.get("SEGUE_CONFIG") else None)
    if named is not None:
        return named
    found = directory / FILE_NAME
    return found if found.is_file() else None


def _read_file(loading: _Loading, path: Path) -> None:
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin a file with a mark
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    sections = list(dict.fromkeys(setting.section for setting in loading.declared.values()))
    origin = Origin(kind="file", name=str(path))
    for section, content in document.items():
        if section not in sections:
            loading.problems.append(f"{path}: there is no section [{section}]{did_you_mean(section, sections)}")
        elif not isinstance(content, dict):
            loading.problems.append(f"{path}: {section} must be a section, [{section}], not a value")
        else:
            for name, value in content.items():
                loading.put(f"{section}.{name}", value, origin)


def _read_environment(loading: _Loading, environment: Mapping[str, str]) -> None:
    known = {setting.variable: setting for setting in loading.declared.values()}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or _NOT_OURS.fullmatch(variable):
            continue
        base = variable.removesuffix("_FILE")
        setting = known.get(variable) or known.get(base)
        property_name = _property_name(base)
        if setting is None and property_name is None:
            # Only a warning: platforms put variables of their own into every process.
            loading.warnings.append(f"{variable} sets nothing{did_you_mean(variable, list(known))}")
            continue
        origin = Origin(kind="environment", name=variable)
        from_file = variable not in known and variable.endswith("_FILE")
        if from_file and base in environment:
            loading.problems.append(f"both {base} and {variable} are set; set one of them")
            continue
        value = _read_secret(loading, environment[variable], origin) if from_file else environment[variable]
        if value is not None:
            loading.put(setting.key if setting else f"{PROPERTIES}.{property_name}", value, origin)


def variable_of(key: str) -> str:
    """The variable that sets `section.name`, or one property of librdkafka."""
    return PREFIX + re.sub(r"[.-]", "_", key).upper()


def environment_with(flags: Mapping[str, tuple[str, object]], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is to have the same settings: flags as variables, for nobody else to read."""
    found = dict(environment)
    for key, (_, value) in flags.items():
        variable = variable_of(key)
        found.pop(f"{variable}_FILE", None)
        found[variable] = str(value)
    return found


def _property_name(variable: str) -> str | None:
    """`SEGUE_KAFKA_PROPERTIES_SASL_PASSWORD` is the property `sasl.password`: no property has an underscore."""
    prefix = "SEGUE_KAFKA_PROPERTIES_"
    name = variable.removeprefix(prefix)
    return name.lower().replace("_", ".") if variable.startswith(prefix) and name else None


def _read_secret(loading: _Loading, path: str, origin: Origin) -> str | None:
    try:
        return Path(path).read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        loading.problems.append(f"{origin} names the file {path}, which cannot be read: {reason}")
        return None


def _relations(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[str]:
    """Problems that one value alone does not show."""
    problems = []
    try:
        topic_names(values["coordinator.name"], {role: values[f"topics.{role}"] for role in TOPIC_ROLES})
    except ConfigError as error:
        # The sentence begins with the setting's name; where its value comes from is only known here.
        key = str(error).partition(" ")[0]
        problems.append(f"{error} ({origins[key]})" if key in origins else str(error))
    problems += [
        f"coordinator.sagas ({origins['coordinator.sagas']}) holds {saga!r}, "
        "expected a module (`shop.sagas`) or one saga in it (`shop.sagas:order_saga`)"
        for saga in values["coordinator.sagas"]
        if not _MODULE.fullmatch(saga)
    ]
    return problems


def topic_names(coordinator: str, topics: Mapping[str, Any]) -> TopicNames:
    """The names that the section `[topics]` makes for this coordinator. Raises ConfigError."""
    return TopicNames(coordinator=coordinator, **{role: topics[role] for role in TOPIC_ROLES})


def setting_of(key: str) -> Setting:
    """The declaration of `section.name`. Raises ConfigError for a name that is none."""
    settings = declared()
    if key not in settings:
        raise ConfigError(f"there is no setting {key}{did_you_mean(key, list(settings))}")
    return settings[key]
