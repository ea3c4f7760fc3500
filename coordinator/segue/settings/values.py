"""One setting: its type and limits, how text becomes its value, and the sentence for a value that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta

from segue.settings.durations import EXPECTED, format_duration, parse_duration
from segue.settings.masking import MASK, mask_url
from segue.settings.model import Settings

_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("0", "false", "no", "off"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of one section, as declared in `segue.settings.model`."""

    section: str
    name: str
    type: Any
    meta: Meta
    default: Any

    @property
    def key(self) -> str:
        """`coordinator.database`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """`SEGUE_COORDINATOR_DATABASE`."""
        return f"SEGUE_{self.section}_{self.name}".upper()

    @property
    def secret(self) -> bool:
        """The value may hold a password."""
        return bool((self.meta.extra_json_schema or {}).get("secret"))

    def shown(self, value: object) -> str:
        """The value for people, without secrets."""
        text = format_duration(value) if isinstance(value, timedelta) else str(value)
        if (self.meta.extra_json_schema or {}).get("secret") == "all":
            return MASK if text else text
        return mask_url(text) if self.secret else text


def declared() -> dict[str, Setting]:
    """All settings by their key, in the order of the file."""
    found = {}
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            kind, meta = get_args(field.type)[:2]
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            setting = Setting(section=section.name, name=field.name, type=kind, meta=meta, default=default)
            found[setting.key] = setting
    return found


def convert(setting: Setting, value: object) -> Any:
    """`value`, however it was given, as the setting's type. Raises ValueError saying what is allowed."""
    readers: dict[Any, Callable[[object], object]] = {timedelta: _duration, bool: _switch, int: _number}
    kind = get_origin(setting.type) or setting.type
    reader = readers.get(kind)
    if reader is not None:
        value = reader(value)
    elif kind is tuple and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif kind is dict and isinstance(value, str):
        value = _object(value)
    try:
        return msgspec.convert(value, Annotated[setting.type, setting.meta])
    except msgspec.ValidationError:
        raise ValueError(f"expected {allowed(setting)}") from None


def allowed(setting: Setting) -> str:
    """What the setting accepts, for sentences and for the reference."""
    kind = get_origin(setting.type) or setting.type
    meta = setting.meta
    if kind is int:
        if meta.le is None:
            return f"a whole number from {meta.ge:,}"
        return f"a whole number from {meta.ge:,} to {meta.le:,}"
    if meta.pattern == r"\{service\}":
        return "a text with {service} in it"
    if meta.pattern is not None:
        return "1 to 60 of A-Z a-z 0-9 _ -"
    words: Mapping[Any, str] = {
        bool: "true or false",
        timedelta: EXPECTED,
        tuple: "a list of texts",
        dict: "a table of names with a value each",
        str: "a text that is not empty" if meta.min_length else "a text",
    }
    return words[kind]


def masked(setting: Setting, value: object) -> str:
    """A value as it was given, for an error message: secrets masked, tables not shown at all."""
    if isinstance(value, dict) or (setting.meta.extra_json_schema or {}).get("secret") == "all":
        return MASK
    return mask_url(repr(value)) if setting.secret or isinstance(value, str) else repr(value)


def did_you_mean(name: str, known: list[str]) -> str:
    """`; did you mean X?`, or nothing where no known name is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected {EXPECTED}")
    return parse_duration(str(value))


def _switch(value: object) -> object:
    text = value.lower() if isinstance(value, str) else value
    if text in _TRUE or text is True:
        return True
    if text in _FALSE or text is False:
        return False
    raise ValueError("expected true or false")


def _number(value: object) -> object:
    text = value.strip().lstrip("-") if isinstance(value, str) else ""
    return int(str(value)) if text.isascii() and text.isdigit() and len(text) < 20 else value


def _object(value: str) -> object:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise ValueError("expected a JSON object") from None
