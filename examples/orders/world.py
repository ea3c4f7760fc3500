"""The world outside the services: a bank that is slow, a carrier that is down, a mailbox that is full.

What happens to an order is written in its column `trouble`, so that the outcome of every order can be told beforehand
and compared with what became of it. Words, separated by spaces: `bank:slow`, `bank:down=1` (the first attempt fails),
`carrier:down=3` (three attempts fail), `carrier:refuses`, `cashier:down=1`, `warehouse:slow`, `mailbox:refuses`.
"""

from __future__ import annotations

import time

#: Seconds that a slow answer takes.
SLOW = 0.15


class OutOfReach(Exception):
    """Nobody answers. Any exception but `Rejected` makes Segue try again."""


def reach(place: str, trouble: str, attempt: int) -> None:
    """Call on `place`. Raises OutOfReach while it is down."""
    what = _trouble_at(place, trouble)
    if what == "slow":
        time.sleep(SLOW)
    elif what.startswith("down=") and attempt <= int(what.removeprefix("down=")):
        raise OutOfReach(f"the {place} does not answer")


def refuses(place: str, trouble: str) -> bool:
    """Whether `place` says no, and will say no as often as it is asked."""
    return _trouble_at(place, trouble) == "refuses"


def down_for(place: str, trouble: str) -> int:
    """How many attempts fail."""
    what = _trouble_at(place, trouble)
    return int(what.removeprefix("down=")) if what.startswith("down=") else 0


def _trouble_at(place: str, trouble: str) -> str:
    for word in trouble.split():
        where, _, what = word.partition(":")
        if where == place:
            return what
    return ""
