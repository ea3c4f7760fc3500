"""The sagas of the simulation: one function that does what its input says, so that every saga has a shape of its own.

It is ordinary saga code; that the shape is data saves making definitions for every schedule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from segue.contract import Activity, Attribute, Signal, Undo
from segue.errors import ContractError
from segue.saga import ActivityError, Registry, Retry, Saga, SagaFailed, saga
from segue.saga.definition import SagaDefinition
from tests.simulation.tape import Stream

SERVICES = ("pay", "box")
OPTIONAL, PARK, BARE, HURRIED = 1, 2, 4, 8
#: How the names of steps begin whose input a build reckons in a way of its own.
PRICED = "priced-"
#: The flag of a new run with a new deadline.
RENEWED = 1


class GivenBack(Exception):
    """The saga's code wants all undone, and has a result all the same."""


class Job(msgspec.Struct, frozen=True):
    """What a handler is told."""

    amount: int
    #: What the code reckoned: another number in each build.
    reckoned: int = 0


class Done(msgspec.Struct, frozen=True):
    """What a handler answers."""

    amount: int


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a saga: what, which activity or signal, how long (milliseconds), flags, parts."""

    kind: str
    name: str = ""
    ms: int = 0
    flags: int = 0
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Contract:
    """An activity and its compensation, if it has one."""

    activity: Activity[Job, Any]
    undo: Activity[Undo[Job, Any], None] | None


def _contracts(service: str) -> dict[str, Contract]:
    do: Activity[Job, Any] = Activity(f"{service}.do", Job, Done)
    long: Activity[Job, Any] = Activity(f"{service}.long", Job, Done)
    return {
        do.name: Contract(do, do.undo(f"{service}.undo")),
        long.name: Contract(long, long.undo(f"{service}.unlong")),
        f"{service}.hard": Contract(Activity(f"{service}.hard", Job), None),
        f"{service}.read": Contract(Activity(f"{service}.read", Job, Done, readonly=True), None),
    }


CONTRACTS: dict[str, Contract] = {name: c for service in SERVICES for name, c in _contracts(service).items()}
NUDGE = Signal("nudge", int)
STAGE = Attribute("stage", int)
RETRY = Retry(
    attempts=3,
    initial=timedelta(milliseconds=300),
    maximum=timedelta(seconds=2),
    silence=timedelta(milliseconds=1500),
)
#: An attempt has less time than its step.
HURRIED_RETRY = msgspec.structs.replace(RETRY, attempt_timeout=timedelta(milliseconds=2500))
UNDO_RETRY = Retry(
    attempts=3,
    initial=timedelta(milliseconds=300),
    maximum=timedelta(seconds=2),
    silence=timedelta(milliseconds=1500),
)


class Code:
    """One build of the sagas' code; `broken`: with a bug, and with another step where there was one."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    async def do(self, s: Saga, node: Node) -> None:
        match node.kind:
            case "call":
                await self.call(s, node, node.name)
            case "changed":
                await self.call(s, node, node.name, step="renamed" if self.broken else "original")
            case "seq":
                for part in node.parts:
                    await self.do(s, part)
            case "par":
                await asyncio.gather(*(self.do(s, part) for part in node.parts))
            case "group":
                async with asyncio.TaskGroup() as group:
                    for part in node.parts:
                        group.create_task(self.do(s, part))
            case "map":
                contract = CONTRACTS[node.name]
                jobs = [Job(n + 1) for n in range(node.flags)]
                await s.map(
                    contract.activity, jobs, compensate=contract.undo, retry=RETRY, timeout=_ms(node.ms), concurrency=2
                )
            case "try":
                try:
                    await self.do(s, node.parts[0])
                except ActivityError:
                    await self.do(s, node.parts[1])
            case _:
                await self.other(s, node)

    async def other(self, s: Saga, node: Node) -> None:
        match node.kind:
            case "within":
                try:
                    async with asyncio.timeout(node.ms / 1000):
                        await self.do(s, node.parts[0])
                except TimeoutError:
                    s.set(STAGE, node.ms)
            case "sleep":
                await asyncio.sleep(node.ms / 1000)
            case "signal" if node.flags:
                await self.first_of_two(s, node)
            case "signal":
                try:
                    s.set(STAGE, await s.receive(NUDGE, timeout=_ms(node.ms), expected=_ms(node.ms // 2)))
                except TimeoutError:
                    pass
            case "pivot":
                s.pivot()
            case "scope":
                async with s.scope("part"):
                    await self.do(s, node.parts[0])
            case "take_back":
                await self.take_back(s, node)
            case "priced":
                await self.priced(s, node)
            case "again":
                self.again(s, node)
            case "fail" | "give_back" | "bug":
                self.leave(node)
            case _:
                raise AssertionError(node)

    def leave(self, node: Node) -> None:
        if node.kind == "fail":
            raise SagaFailed("planned")
        if node.kind == "give_back":
            raise GivenBack
        if self.broken:
            raise ZeroDivisionError("a bug")

    async def first_of_two(self, s: Saga, node: Node) -> None:
        """Two wait, and whoever gets a signal ends the other's wait; then somebody looks, and takes what is there."""
        waits = [asyncio.ensure_future(s.receive(NUDGE)) for _ in range(2)]
        try:
            await asyncio.wait(waits, timeout=node.ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in waits:
            if wait.done() and not wait.cancelled():
                s.set(STAGE, wait.result())
        try:
            async with asyncio.timeout(0):
                s.set(STAGE, await s.receive(NUDGE))
        except TimeoutError:
            pass
        try:
            while True:
                s.set(STAGE, await s.receive(NUDGE, timeout=timedelta(0)))
        except TimeoutError:
            pass

    async def take_back(self, s: Saga, node: Node) -> None:
        """Call a few, and have one of them undone."""
        names = [f"part-{s.uuid()}" for _ in node.parts]
        for name, part in zip(names, node.parts, strict=True):
            try:
                await self.call(s, part, part.name, step=name)
            except ActivityError:
                return
        try:
            await s.undo(names[0])
        except ContractError:  # past the pivot
            if self.broken:
                raise

    async def priced(self, s: Saga, node: Node) -> None:
        """Call a few with what this build reckons: the other build asks the same steps for something else."""
        name = f"{PRICED}{s.uuid()}"
        for n, part in enumerate(node.parts):
            await self.call(s, part, part.name, step=f"{name}.{n}", reckoned=2 if self.broken else 1)

    def again(self, s: Saga, node: Node) -> None:
        deadline = timedelta(seconds=8) if node.flags & RENEWED else None
        try:
            s.continue_as_new(node.parts[0], deadline=deadline)
        except ContractError:
            if self.broken:
                raise
            s.pivot()
            s.continue_as_new(node.parts[0], deadline=deadline)

    async def call(self, s: Saga, node: Node, name: str, step: str | None = None, reckoned: int = 0) -> None:
        contract = CONTRACTS[name]
        await s.call(
            contract.activity,
            Job(1 + len(s.id), reckoned),
            compensate=None if node.flags & BARE else contract.undo,
            retry=HURRIED_RETRY if node.flags & HURRIED else RETRY,
            timeout=_ms(node.ms),
            heartbeat_timeout=_ms(1_000) if name.endswith(".long") else None,
            optional=bool(node.flags & OPTIONAL),
            on_failure="park" if node.flags & PARK else "raise",
            step=step,
            # Some calls of one service are about the same thing, and are handled one after the other.
            key=s.id if node.ms != _TIMES[0] else None,
        )


def _ms(ms: int) -> timedelta:
    return timedelta(milliseconds=ms)


def _define(name: str, version: int, code: Code, deadline: timedelta | None) -> SagaDefinition[Node, str]:
    @saga(
        name,
        version=version,
        deadline=deadline,
        compensation=UNDO_RETRY,
        compensation_timeout=timedelta(seconds=12),
    )
    async def run(s: Saga, node: Node) -> str:
        try:
            await code.do(s, node)
        except GivenBack:
            return s.compensated(f"given back by {version}")
        return f"done by {version}"

    return run


_MakeCode = Callable[[], Code]


#: The types of sagas, and within which time they are to end.
_TYPES = {"free": None, "timed": timedelta(seconds=8)}


def _release(versions: tuple[int, ...], code: Code, names: Sequence[str] = tuple(_TYPES)) -> Registry:
    return Registry(_define(name, version, code, _TYPES[name]) for version in versions for name in names)


#: What can be deployed, by name.
RELEASES: dict[str, Registry] = {
    "one": _release((1,), Code()),
    "both": _release((1, 2), Code()),
    "broken": _release((1,), Code(broken=True)),
    "older": _release((1,), Code(), ("timed",)),
}

_TIMES = (4_000, 9_000, 20_000)
_COMPENSABLE = ("pay.do", "box.do", "pay.long", "box.long")


def draw(s: Stream, features: frozenset[str], pieces: Sequence[str] = (), endings: float = 0.25) -> Node:
    """A saga that uses some of `features`, of these pieces if any are named; `endings`: how often something ends it."""
    depth = (1, 1, 2)[s.pick(3)]
    parts = [_piece(s, features, depth, pieces) for _ in range((1, 1, 1, 2, 2, 3)[s.pick(6)])]
    if "pivot" in features and s.chance(endings):
        parts.append(Node("pivot"))
        parts.append(_call(s, features))
    elif s.chance(endings):
        parts.append(Node("give_back" if "scope" in features and s.pick(2) else "fail"))
    last = Node("seq", parts=tuple(parts))
    if CONTINUE in features and s.chance(0.4):
        for _ in range(1 + s.pick(2)):
            again = Node("again", flags=RENEWED if s.chance(0.2) else 0, parts=(last,))
            piece = _piece(s, features, 1, pieces)
            if s.chance(0.3):  # what it gives up may be undone still when the run is to end
                piece = Node("within", ms=1_500, parts=(_call(s, features),))
            last = Node("seq", parts=(_call(s, features), piece, again))
    return last


def _call(s: Stream, features: frozenset[str]) -> Node:
    time = _TIMES[s.pick(3)]
    kind = s.pick(8)
    if kind == 5 and "readonly" in features:
        return Node("call", ("pay.read", "box.read")[s.pick(2)], time)
    if kind == 6 and "bare" in features:
        return Node("call", ("pay.hard", "box.hard")[s.pick(2)], time, (0, PARK, OPTIONAL)[s.pick(3)])
    name = _COMPENSABLE[s.pick(4) if "manual" in features else s.pick(2)]
    flags = 0
    if kind == 7:
        flags = OPTIONAL if "optional" in features else 0
    elif kind == 4:
        flags = PARK if "park" in features else 0
    elif kind == 3:
        flags = BARE if "bare" in features else 0
    if ATTEMPTS in features:
        flags |= HURRIED * (s.pick(3) > 0)
    return Node("call", name, time, flags)


def _piece(s: Stream, features: frozenset[str], depth: int, pieces: Sequence[str] = ()) -> Node:
    kind = s.pick(14) if depth else 0
    feature = pieces[kind % len(pieces)] if pieces else _PIECES.get(kind)
    if feature is None or feature not in features:
        return _call(s, features)
    if feature in ("scope", "take_back", "parked", "recover", "priced"):
        return _part(s, features, feature)
    if feature in ("parallel", "within", "try"):
        return _nested(s, features, depth, feature, kind)
    match feature:
        case "signal":
            ms = (2_000, 10_000)[s.pick(2)]
            return Node("signal", ms=ms, flags=s.pick(2) if ODD_SIGNALS in features else 0)
        case "map":
            return Node("map", ("pay.do", "box.do")[s.pick(2)], 9_000, 1 + s.pick(4))
        case "sleep":
            return Node("sleep", ms=(700, 3_000)[s.pick(2)])
        case _:
            return Node("bug") if s.chance(0.5) else Node("seq", parts=(_call(s, features), Node("bug")))


def _part(s: Stream, features: frozenset[str], feature: str) -> Node:
    """What only a focus asks for."""
    match feature:
        case "scope":
            fails = (Node("fail"),) if s.chance(0.6) else ()
            parts = (_call(s, features), Node("par", parts=(_call(s, features), _call(s, features))), *fails)
            return Node("scope", parts=(Node("seq", parts=parts),))
        case "take_back":
            calls = tuple(Node("call", _COMPENSABLE[s.pick(2)], _TIMES[s.pick(3)]) for _ in range(2))
            return Node("take_back", parts=calls)
        case "priced":
            return Node("priced", parts=tuple(Node("call", _COMPENSABLE[s.pick(2)], _TIMES[2]) for _ in range(3)))
        case "parked":
            return Node("call", _COMPENSABLE[s.pick(2)], _TIMES[0], PARK)
        case _:
            return Node("try", parts=(_call(s, features), Node("bug")))


def _nested(s: Stream, features: frozenset[str], depth: int, feature: str, kind: int) -> Node:
    match feature:
        case "parallel" if kind != 8:
            return Node("par", parts=tuple(_piece(s, features, depth - 1) for _ in range(2 + s.pick(2))))
        case "parallel":
            return Node("group", parts=tuple(_piece(s, features, depth - 1) for _ in range(2)))
        case "within":
            return Node("within", ms=(1_500, 4_000, 8_000)[s.pick(3)], parts=(_piece(s, features, depth - 1),))
        case _:
            return Node("try", parts=(_call(s, features), _call(s, features)))


#: What the numbers of pieces stand for; the others are calls.
_PIECES = {
    5: "bug",
    6: "parallel",
    7: "parallel",
    8: "parallel",
    9: "within",
    10: "signal",
    11: "map",
    12: "try",
    13: "sleep",
}
#: Some sagas have several runs. Drawn apart from the others, which were there before.
CONTINUE = "continue"
#: Some signals are no values of their type, and some sagas wait for one in several places at once.
ODD_SIGNALS = "odd signals"
#: Most calls bound their attempts.
ATTEMPTS = "attempts"
#: What a seed may turn on.
FEATURES = (
    "parallel", "within", "signal", "map", "try", "sleep", "readonly", "bare", "manual", "optional", "park", "pivot",
    "bug",
)  # fmt: skip
#: What only a focus turns on.
FOCUSED = ("parked", "recover", "scope", "take_back", "priced", ODD_SIGNALS, ATTEMPTS)
