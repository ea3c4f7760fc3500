"""The breaker: at most so many sagas of one type begin to be undone per minute; the others are held for a while.

It guards against a mass compensation that nobody wants (a bad deploy of one participant refuses every order). Each
coordinator counts for itself: the limit is a brake, not an invariant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

#: The window of the limit, in microseconds.
_WINDOW = 60_000_000

_NONE: deque[int] = deque()


class Breaker:
    """Counts undos by saga type over the last minute of the database's clock."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._begun: dict[str, deque[int]] = {}

    def held_until(self, definition: str, now: int, beginning: Sequence[int] = ()) -> int | None:
        """None if an undo may begin at `now` (microseconds), else when it may be tried again.

        `beginning`: when undos begin that are not committed yet.
        """
        if self._per_minute is None:
            return None
        begun = self._begun.get(definition, _NONE)
        while begun and begun[0] <= now - _WINDOW:
            begun.popleft()
        if len(begun) + len(beginning) < self._per_minute or not (begun or beginning):
            return None
        return (begun[0] if begun else beginning[0]) + _WINDOW

    def begun(self, definition: str, now: int) -> None:
        """An undo that no person asked for has begun."""
        if self._per_minute is not None:
            self._begun.setdefault(definition, deque()).append(now)
