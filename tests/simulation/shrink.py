"""Making a failing tape small: as few choices that are not benign as still fail in the same oracle."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.tape import Choices

#: (stream, number, value)
Choice = tuple[str, int, int]


def shrink(choices: Choices, fails: Callable[[Choices], bool], *, budget: int = 1_500) -> Choices:
    """The smallest tape found within `budget` runs for which `fails` is true, as it must be for `choices`.

    First whole streams go (an actor that does nothing), then chunks of choices, halved till single ones; then values
    become smaller. Streams keep their numbers, so what one actor does not do leaves the others as they were.
    """
    left = [budget]

    def still(candidate: list[Choice]) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        return fails(_choices(candidate))

    kept = _flat(choices)
    for stream in sorted(choices, key=lambda name: (name == "plan", -len(choices[name]))):
        without = [choice for choice in kept if choice[0] != stream]
        if len(without) < len(kept) and still(without):
            kept = without
    kept = _without_chunks(kept, still)
    return _choices(_smaller_values(kept, still))


def _without_chunks(kept: list[Choice], still: Callable[[list[Choice]], bool]) -> list[Choice]:
    chunk = max(1, len(kept) // 2)
    while kept:
        at, gone = 0, False
        while at < len(kept):
            without = kept[:at] + kept[at + chunk :]
            if still(without):
                kept, gone = without, True
            else:
                at += chunk
        if chunk == 1 and not gone:
            return kept
        chunk = max(1, chunk // 2) if not gone or chunk > 1 else 1
    return kept


def _smaller_values(kept: list[Choice], still: Callable[[list[Choice]], bool]) -> list[Choice]:
    for at, (stream, number, value) in enumerate(kept):
        for smaller in (1, value // 2):
            if 0 < smaller < value and still([*kept[:at], (stream, number, smaller), *kept[at + 1 :]]):
                kept[at] = (stream, number, smaller)
                break
    return kept


def _flat(choices: Choices) -> list[Choice]:
    return [(name, n, value) for name, stream in sorted(choices.items()) for n, value in sorted(stream.items())]


def _choices(flat: list[Choice]) -> Choices:
    choices: Choices = {}
    for name, n, value in flat:
        choices.setdefault(name, {})[n] = value
    return choices
