"""What a seed turns on: how many of everything, which faults, how often, and what the sagas may look like."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.simulation.sagas import CONTINUE, FEATURES, ODD_SIGNALS
from tests.simulation.tape import Stream
from tests.simulation.world import FAULTS, SECOND

#: A limit that no saga reaches.
NEVER = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The swarm's draw. All zeros: one coordinator, one saga, one call, no fault."""

    instances: int
    workers: int
    sagas: int
    partitions: int
    rate: float
    enabled: frozenset[str]
    features: frozenset[str]
    service_rate: float
    refuse_rate: float
    mute_rate: float
    late_trouble: bool
    events: int
    people: int
    signals: int
    jitter_us: int
    batch: int
    cache: int
    restart_us: int
    deploy: int
    spread_us: int
    horizon_us: int
    skewed: bool
    interleave: float
    wire_rate: float
    later_rate: float
    beats: bool
    #: Signs of life that one delivery gives, at most.
    most_beats: int
    undos_per_minute: int | None
    clock_back: bool
    never_rate: float
    #: The nemesis' events; empty: all of them.
    kinds: tuple[str, ...] = ()
    #: What the pieces of sagas are; empty: whatever the features allow.
    pieces: tuple[str, ...] = ()
    #: How often a saga that may ends with a pivot and a call, or with a failure.
    endings: float = 0.25
    #: How long records wait for company, in microseconds, unless somebody says that there will be none.
    linger_us: int = 0
    #: Limits of a saga: transitions in its history, and commands that are outstanding.
    history_events: int = NEVER
    pending_commands: int = NEVER
    #: Seconds between two commits of a worker's offsets: what it has done since then is done again after a kill.
    commit_s: float = 0.0
    #: Services write headers that only advise as they like, and some outcomes in words of their own.
    odd_headers: bool = False
    #: Some processes are of an older build: workers lack activities, and the first coordinator lacks a type of sagas.
    older: bool = False
    #: Names of coordinators that share the database; each has topics and sagas of its own.
    names: int = 1
    #: Workers have few slots, and their jobs take time.
    busy: bool = False


#: Many small schedules find more than few large ones; but what sagas do to each other takes some of them.
_SAGAS = (*[1] * 18, *[2] * 4, 4, 8, *[1] * 16, 2, 2)


def draw(s: Stream) -> Plan:
    """Draw a plan; the order of the draws is part of every saved tape, so what came later is drawn later."""
    plan = Plan(
        instances=(1, 1, 1, 2, 2, 3)[s.pick(6)],
        workers=(1, 1, 1, 2)[s.pick(4)],
        sagas=_SAGAS[s.pick(len(_SAGAS))],
        partitions=(1, 1, 2, 3)[s.pick(4)],
        rate=(0.0, 0.01, 0.03, 0.1)[s.pick(4)],
        enabled=frozenset(kind for kind in FAULTS if s.pick(2)),
        features=frozenset(feature for feature in FEATURES if s.pick(2)),
        service_rate=(0.0, 0.0, 0.1, 0.3)[s.pick(4)],
        refuse_rate=(0.0, 0.05, 0.2)[s.pick(3)],
        mute_rate=(0.0, 0.0, 0.0, 0.1, 0.3)[s.pick(5)],
        late_trouble=bool(s.pick(2)),
        events=(0, 0, 1, 2, 4)[s.pick(5)],
        people=(0, 0, 1, 2, 4)[s.pick(5)],
        signals=(0, 1, 2, 6)[s.pick(4)],
        jitter_us=(0, 4_000, 60_000)[s.pick(3)],
        batch=(500, 500, 1, 3)[s.pick(4)],
        cache=(10_000, 10_000, 1, 0)[s.pick(4)],
        restart_us=(200_000, 2_000_000)[s.pick(2)],
        deploy=s.pick(12),
        spread_us=(0, 500_000, 5_000_000)[s.pick(3)],
        horizon_us=(8 * SECOND, 20 * SECOND)[s.pick(2)],
        skewed=bool(s.pick(2)),
        interleave=(0.0, 0.1, 0.5)[s.pick(3)],
        wire_rate=(0.0, 0.0, 0.1, 0.3)[s.pick(4)],
        later_rate=(0.0, 0.0, 0.4)[s.pick(3)],
        beats=bool(s.pick(2)),
        most_beats=2,
        undos_per_minute=(None, None, 1)[s.pick(3)],
        clock_back=bool(s.pick(2)),
        never_rate=(0.0, 0.0, 0.3)[s.pick(3)],
    )
    if s.pick(2):
        plan = replace(plan, features=plan.features | {CONTINUE})
    plan = replace(plan, commit_s=(0.0, 0.2, 1.0)[s.pick(3)])
    if s.pick(2):
        plan = replace(plan, enabled=plan.enabled | {"db.hangs"})
    if s.pick(2):
        plan = replace(plan, features=plan.features | {ODD_SIGNALS})
    return replace(plan, busy=s.pick(4) == 3)


def calm(plan: Plan) -> Plan:
    """The same sagas in the same system, and nothing goes wrong."""
    return replace(
        plan,
        rate=0.0,
        enabled=frozenset(),
        service_rate=0.0,
        mute_rate=0.0,
        events=0,
        people=0,
        deploy=0,
        skewed=False,
        interleave=0.0,
        wire_rate=0.0,
        later_rate=0.0,
        beats=False,
        undos_per_minute=None,
        never_rate=0.0,
    )
