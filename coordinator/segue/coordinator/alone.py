"""Rows dealt with in one transaction, and if that fails for good, each in its own: one can't hurt the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from segue.coordinator.store import Batch, Unfit
from segue.coordinator.work import Work
from segue.errors import Unavailable

#: What no record, saga or request is to blame for: it fails whatever is tried, and is tried again as it is.
NOBODYS_FAULT = (Unavailable, Unfit)


class Numbered(Protocol):
    """A row of a table that is worked off."""

    @property
    def id(self) -> int: ...


R = TypeVar("R", bound=Numbered)
Transact = Callable[[Callable[[Work, Batch], None]], None]


def deal(
    transact: Transact,
    take: Callable[[Work, Batch, int], Sequence[R]],
    each: Callable[[Work, Batch, R], None],
    give_up: Callable[[Work, R, Exception], None],
    *,
    most: int,
) -> bool:
    """Lock up to `most` rows with `take` and deal with `each`; whether there were any.

    `give_up` makes sure that a row which can't be dealt with is not taken again. Raises NOBODYS_FAULT, and what `take`
    raises.
    """
    taken: list[R] = []

    def together(work: Work, batch: Batch, limit: int) -> None:
        taken.clear()
        taken.extend(take(work, batch, limit))
        for row in taken:
            each(work, batch, row)

    def first_alone() -> None:
        try:
            transact(lambda work, batch: together(work, batch, 1))
        except NOBODYS_FAULT:
            raise
        except Exception as error:
            if not taken:
                raise
            _leave_out(transact, take, give_up, taken[0], error)

    try:
        transact(lambda work, batch: together(work, batch, most))
    except NOBODYS_FAULT:
        raise
    except Exception:
        if not taken:
            raise
        for _ in range(len(taken)):
            first_alone()
        return True
    return bool(taken)


def _leave_out(
    transact: Transact,
    take: Callable[[Work, Batch, int], Sequence[R]],
    give_up: Callable[[Work, R, Exception], None],
    bad: R,
    error: Exception,
) -> None:
    def leave_out(work: Work, batch: Batch) -> None:
        # Somebody else may have dealt with it meanwhile.
        if any(row.id == bad.id for row in take(work, batch, 1)):
            give_up(work, bad, error)

    transact(leave_out)
