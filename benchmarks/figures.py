"""The arithmetic of a report: medians, spreads, percentiles. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank). Raises for no values."""
    if not values or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ValueError for no values."""
    if not values:
        raise ValueError("no median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What repeated measuring found."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Raises ValueError for no values."""
        found = list(values)
        return cls(median=median(found), low=min(found), high=max(found), n=len(found))


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part / whole`, rounded to three digits; None where one of them was not measured, or the whole is zero."""
    if part is None or not whole:
        return None
    return float(f"{part / whole:.3g}")


def shown(value: float) -> str:
    """A number as people read it: three significant digits, thousands separated."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{digits}f}" if digits else f"{round(rounded):,}"
