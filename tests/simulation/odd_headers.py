"""Answers of services that write headers as they like: what only advises is odd, what decides is in other letters.

A message always gets the same headers, so that its copies stay alike.
"""

from __future__ import annotations

from zlib import crc32

import msgspec

from segue.topics.broker import Headers, Outgoing
from tests.simulation.oracles import header

#: The word that one service says for a success; nobody but a person can know what it means.
STRANGE = "accepted"
_ODD: tuple[Headers, ...] = (
    (("ce_time", b"1764000000000"),),
    (("ce_time", b"2026-01-01t00:00:00z"),),
    (("ce_time", b"0001-01-01T00:00:00+14:00"),),
    (("ce_subject", "Müller".encode("latin-1")),),
    (("ce_sagaretryafter", b""), ("ce_sagaerror", b"\x00")),
    (("ce_sagaid", b"\xff"), ("x-jwt", b"a" * 20_000)),
    tuple((f"x-{n}", None) for n in range(80)),
)


def oddly(outgoing: Outgoing) -> Outgoing:
    """The answer as one of these services sends it."""
    draw = crc32((header(outgoing.headers, "ce_id") or "").encode())
    outcome = header(outgoing.headers, "ce_sagaoutcome") or "success"
    if outcome in ("pending", STRANGE):
        return outgoing  # a copy; and which of two signs of life is the newer one is told by their times
    changed = dict(_ODD[draw % len(_ODD)])
    if outcome == "success" and draw // 16 % 8 == 0:
        changed["ce_sagaoutcome"] = STRANGE.encode()
    elif draw // 16 % 8 < 4:
        changed["ce_sagaoutcome"] = outcome.title().encode()
    kept = tuple(pair for pair in outgoing.headers if pair[0] not in changed)
    return msgspec.structs.replace(outgoing, headers=(*kept, *changed.items()))
