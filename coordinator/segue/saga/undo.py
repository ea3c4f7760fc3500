"""Whose compensation may be sent now: the order of an undo, kept so that a step that is undone costs no scan."""

from __future__ import annotations

from collections.abc import Iterable

from segue.saga.steps import Step


class UndoPlan:
    """The steps that an undo covers, in the order in which they are undone.

    Step *a* happened before *b* if *a* was settled before *b* was issued; *a* waits until *b* is undone or deferred.
    So all may go that were settled after the newest step that is still to be undone was issued. A plan is a cache: it
    is made anew when a step joins or leaves the undo; how far each compensation is, it sees at the step.
    """

    __slots__ = ("_in_order", "_open", "_unsent")

    def __init__(self, covered: Iterable[Step], *, in_order: bool) -> None:
        """`in_order=False`: every compensation may be sent at once, as for steps that the code has abandoned."""
        self._in_order = in_order
        self._open = sorted((step for step in covered if _is_open(step)), key=lambda step: step.issued)
        self._unsent = sorted(
            (step for step in self._open if step.undo.status == "none"), key=lambda step: (step.settled, -step.issued)
        )

    def next(self) -> list[Step]:
        """The steps whose compensation is to be sent now, in the order of issue; each is named once."""
        while self._open and not _is_open(self._open[-1]):
            self._open.pop()
        after = self._open[-1].issued if self._open and self._in_order else -1
        found: list[Step] = []
        while self._unsent and self._unsent[-1].settled > after:
            step = self._unsent.pop()
            if step.undo.status == "none":
                found.append(step)
        return sorted(found, key=lambda step: step.issued)


def _is_open(step: Step) -> bool:
    return step.undo.status in ("none", "issued", "waiting")
