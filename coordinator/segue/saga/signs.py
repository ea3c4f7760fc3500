"""Signs of life: what a participant has said so far while it works on one command, so that each counts once.

The first one is part of the history. Those that follow are kept beside it, the newest in the place of the one before:
they are read when an alarm of their step rings, and a step that works for hours does not fill its saga's history.

A participant that has put its answer off (`ReplyLater`) answers every re-send with the same stored `pending`. If each
copy counted, a step whose answer is lost would never come to its deadline.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

#: Most ids that are kept of one command beside its saga: of a participant whose clock is ahead each sign adds one.
_MOST_KNOWN = 100
#: Stands for the time of a message that has none: only its id tells whether it was here before.
_UNDATED = 2**62


class Signs(msgspec.Struct, gc=False):
    """The signs of life of one command. Times are microseconds since 1970."""

    #: Time of the newest one, by the participant's clock, but never ahead of the database's when it came: else
    #: a participant whose clock is fast would silence the one that takes over from it.
    newest: int = 0
    #: Ids of messages that their time alone does not give away, with that time: those without one, those of the same
    #: moment as the newest, and those from clocks that are ahead. All others are forgotten.
    known: dict[str, int] = {}

    def repeats(self, message: str, said_at: int, now: int) -> bool:
        """Whether this message says nothing new: it was here before, or it is older than one that was."""
        if message and message in self.known:
            return True
        return 0 < min(said_at, now) < self.newest

    def take(self, message: str, said_at: int, now: int) -> None:
        """Remember a message that counts; `said_at` is 0 where it has no time."""
        if said_at:
            self.newest = max(self.newest, min(said_at, now))
            self.known = {id: at for id, at in self.known.items() if at >= self.newest}
        if message:
            self.known[message] = said_at or _UNDATED


class LastSign(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of the signs that followed the first: when the newest came, by the database, and what it said."""

    at: int
    newest: int = 0
    known: Mapping[str, int] = {}
    details: msgspec.Raw = msgspec.Raw(b"null")
    #: How many there were.
    count: int = 1


def heard(
    first: Signs, last: LastSign | None, *, message: str, said_at: int, now: int, details: msgspec.Raw
) -> LastSign | None:
    """What is to be kept now that this one came; None if it says nothing new. `first`: what the history knows."""
    signs = Signs(newest=first.newest, known=dict(first.known))
    if last is not None:
        signs = Signs(newest=max(first.newest, last.newest), known={**first.known, **last.known})
    if signs.repeats(message, said_at, now):
        return None
    signs.take(message, said_at, now)
    return LastSign(
        at=now,
        newest=signs.newest,
        known=dict(list(signs.known.items())[-_MOST_KNOWN:]),
        details=details,
        count=1 if last is None else last.count + 1,
    )
