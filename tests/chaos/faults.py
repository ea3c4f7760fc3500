"""Every kind of fault: a generator that does harm, yields how many seconds it lasts, and mends it.

Its first yield comes once the harm is done; its value says what shows that it really happened, None: it did not.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.chaos import fleet as processes
from tests.chaos.estate import CRAMPED, JUMPING, SESSION_TIMEOUT, Estate
from tests.chaos.fleet import Fleet
from tests.chaos.tap import Tap
from tests.chaos.versions import NEW, OLD

#: Seconds between two looks at something that a fault waits for.
_LOOK = 0.3
#: Seconds after which a fault that nothing met is given up.
_PATIENCE = 15.0
#: Seconds after which a process that was asked to end must have ended, whatever else goes on.
_DRAINED_AFTER = 120.0
#: What a full disk makes PostgreSQL write into its log.
_NO_SPACE = "No space left on device"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What faults may touch."""

    place: Estate
    fleet: Fleet
    tap: Tap


Course = Generator[float, None, str | None]


def _wait(shown: Callable[[], bool], least: float = 0.0, most: float = _PATIENCE) -> Generator[float, None, None]:
    """At least so many seconds, and until it has shown, or nothing comes of it."""
    waited = 0.0
    while waited < least or (not shown() and waited < most):
        yield _LOOK
        waited += _LOOK


Do = Callable[[World, str, Random], Course]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault, and what it may strike: one of the targets; `+` joins things that are struck together."""

    do: Do
    targets: Sequence[str]
    #: Processes are killed: see `tests.chaos.vacuity` for what such a fault must have met.
    kills: bool = False


def _kill(world: World, target: str, random: Random) -> Course:
    alive = world.fleet.kill(target)
    yield random.uniform(0.5, 3.0)
    world.fleet.start(target)
    return "it was alive" if alive else None


def _freeze(world: World, target: str, random: Random) -> Course:
    world.fleet.freeze(target)
    yield SESSION_TIMEOUT / 1000 + random.uniform(1.5, 5.0)
    frozen = not world.fleet.has_ended(target) and world.fleet.is_frozen(target)
    world.fleet.thaw(target)
    return "it was stopped longer than its session lasts" if frozen else None


def _outage(how: signal.Signals) -> Do:
    """The server named by the target is ended by a signal, and comes back on the same data a moment later."""

    def do(world: World, target: str, random: Random) -> Course:
        server = world.place.kafka if target == "kafka" else world.place.postgres
        ended = server.finish(how)
        yield random.uniform(0.5, 3.0)
        server.start()
        return "it ran" if ended else None

    return do


def _commit_reply_lost(world: World, target: str, random: Random) -> Course:
    """Several times in a row, each on whichever connection commits next."""
    proxy = world.place.proxies[target.removeprefix("proxy:")]
    lost = 0
    for _ in range(random.randrange(1, 4)):
        proxy.lost.clear()
        proxy.mode = "commit"
        yield from _wait(proxy.lost.is_set)
        proxy.mode = "pass"
        lost += proxy.lost.is_set()
        yield random.uniform(0.2, 2.0)
    return f"{lost} times" if lost else None


def _black_hole(world: World, target: str, random: Random) -> Course:
    """Connections stay open, and nothing the server says arrives; they are dead for good."""
    proxy = world.place.proxies[target.removeprefix("proxy:")]
    proxy.lost.clear()
    proxy.mode = "swallow"
    yield from _wait(proxy.lost.is_set, random.uniform(4.0, 10.0))
    proxy.mode = "pass"
    return "words of the server were lost" if proxy.lost.is_set() else None


def _copies(kind: str) -> Do:
    def do(world: World, target: str, random: Random) -> Course:
        before = world.tap.sent[kind]
        for _ in range(random.randrange(2, 6)):
            world.tap.ask(kind)
            yield random.uniform(0.3, 1.5)
        yield from _wait(lambda: world.tap.sent[kind] > before)
        sent = world.tap.sent[kind] - before
        return f"{sent} copies" if sent else None

    return do


def _disk_full(world: World, target: str, random: Random) -> Course:
    """Tables of one bank can't grow; their log is elsewhere, so that PostgreSQL lives on."""
    log = world.place.postgres.log
    begin = log.stat().st_size
    world.place.disk.fill()
    yield from _wait(lambda: _NO_SPACE in _since(world, begin), random.uniform(3.0, 6.0))
    world.place.disk.free()
    met = _since(world, begin).count(_NO_SPACE)
    return f"PostgreSQL met it {met} times" if met else None


def _since(world: World, begin: int) -> str:
    with world.place.postgres.log.open("rb") as log:
        log.seek(begin)
        return log.read().decode(errors="replace")


def _clock_jump(world: World, target: str, random: Random) -> Course:
    seconds = random.choice((-86_400, -3600, -30, 30, 3600, 86_400))
    clock = world.place.clocks[target]
    clock.jump(seconds)
    yield from _wait(lambda: clock.seen == seconds, random.uniform(4.0, 8.0))
    seen = clock.seen
    clock.jump(0)
    return f"it was wrong by {seen:+d} s" if seen == seconds else None


def _rolling_restart(world: World, target: str, random: Random) -> Course:
    """A deploy of the other version of the saga, one coordinator after the other; the next one takes it back."""
    fleet = world.fleet
    wanted = OLD if all(module == NEW for module in fleet.sagas.values()) else NEW
    for name in processes.COORDINATORS:
        fleet.stop(name)
        yield from _wait(lambda name=name: fleet.has_ended(name), most=_DRAINED_AFTER)  # type: ignore[misc]
        if not fleet.has_ended(name):
            fleet.give_up(name)
        fleet.sagas[name] = wanted
        fleet.start(name)
        yield random.uniform(1.0, 3.0)
    return f"to {wanted}"


_PROXIES = ("proxy:coordinator", "proxy:bank_b")
KINDS: Mapping[str, Kind] = {
    "kill_coordinator": Kind(do=_kill, targets=processes.COORDINATORS, kills=True),
    "kill_worker": Kind(do=_kill, targets=processes.WORKERS, kills=True),
    "kill_relay": Kind(do=_kill, targets=processes.RELAYS, kills=True),
    "freeze_coordinator": Kind(do=_freeze, targets=processes.COORDINATORS),
    "freeze_worker": Kind(do=_freeze, targets=processes.WORKERS),
    "broker_restart": Kind(do=_outage(signal.SIGTERM), targets=("kafka",)),
    "broker_kill": Kind(do=_outage(signal.SIGKILL), targets=("kafka",), kills=True),
    # `immediate`: no checkpoint, every session is cut.
    "postgres_restart": Kind(do=_outage(signal.SIGQUIT), targets=("postgres",)),
    "postgres_kill": Kind(do=_outage(signal.SIGKILL), targets=("postgres",), kills=True),
    "commit_reply_lost": Kind(do=_commit_reply_lost, targets=_PROXIES),
    "black_hole": Kind(do=_black_hole, targets=(*_PROXIES, "proxy:kafka")),
    "duplicate": Kind(do=_copies("duplicate"), targets=("tap",)),
    "corrupt": Kind(do=_copies("corrupt"), targets=("tap",)),
    # A database can't recover on a full disk: the server is left alone meanwhile.
    "disk_full": Kind(do=_disk_full, targets=(f"{CRAMPED}+postgres",)),
    "clock_jump": Kind(do=_clock_jump, targets=JUMPING),
    "rolling_restart": Kind(do=_rolling_restart, targets=("+".join(processes.COORDINATORS),)),
}
