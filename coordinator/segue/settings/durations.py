"""Durations as people write them: `200ms`, `30s`, `5m`, `2h`, `7d`, `1h30m`; a bare number is seconds."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
EXPECTED = "a duration like 200ms, 30s, 5m, 2h, 7d or 1h30m"


def parse_duration(text: str) -> timedelta:
    """The duration that `text` says. Raises ValueError with what is allowed."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return timedelta(seconds=float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"expected {EXPECTED}")
    return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, to the millisecond: `1h30m`, `200ms`, `0s`."""
    left = round(duration / timedelta(milliseconds=1))
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
