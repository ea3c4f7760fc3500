"""Signs of life: what a participant has said so far while it works on one command, so that each counts once.

A participant that has put its answer off (`ReplyLater`) answers every re-send with the same stored `pending`. If each
copy counted, a step whose answer is lost would never come to its deadline.
"""

from __future__ import annotations

import msgspec

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
