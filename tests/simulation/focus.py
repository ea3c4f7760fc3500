"""Focuses: a schedule in eight has one, which makes the conditions of a rare window likely.

The swarm turns on each condition by itself, so that it rarely turns on five at the same time. A focus is a plan with
its conditions turned on: how many, how often, which faults, which pieces of sagas. When anything happens, and to whom,
is drawn as ever. Which schedule has which focus is told by its seed, and is a choice of its tape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.simulation.plan import Plan
from tests.simulation.sagas import ATTEMPTS, ODD_SIGNALS
from tests.simulation.world import SECOND

#: One of so many schedules has a focus.
SHARE = 8


def zombies(plan: Plan) -> Plan:
    """Coordinators freeze, are expelled, and go on; sagas wait for a while, so that there is somebody to disturb."""
    return replace(
        plan,
        instances=max(2, plan.instances),
        sagas=max(2, plan.sagas),
        partitions=1,
        enabled=frozenset(("pause", "commit.ambiguous")),
        rate=max(0.03, plan.rate),
        interleave=0.5,
        events=8,
        kinds=("zombie", "rebalance", "kill"),
        horizon_us=8 * SECOND,
    )


def recreated(plan: Plan) -> Plan:
    """The topic of replies is created again and again, while those who find it out freeze."""
    return replace(
        plan,
        instances=max(2, plan.instances),
        partitions=1,
        enabled=frozenset(("pause",)),
        rate=0.1,
        events=8,
        kinds=("recreate", "recreate", "rebalance", "zombie"),
        horizon_us=8 * SECOND,
    )


def cut_off(plan: Plan) -> Plan:
    """Damaged records arrive where an unclean election has cut off others."""
    return replace(
        plan,
        partitions=1,
        events=12,
        kinds=("poison", "poison_soon", "truncate"),
        horizon_us=8 * SECOND,
    )


def old_records(plan: Plan) -> Plan:
    """Services ask for patience, and what was sent long ago arrives once more."""
    return replace(
        plan,
        service_rate=0.3,
        refuse_rate=0.0,
        mute_rate=0.0,
        events=12,
        kinds=("redrive",),
        horizon_us=8 * SECOND,
    )


def signals(plan: Plan) -> Plan:
    """Signals come before their sagas, twice, and more of them than may wait; and the database's clock steps back."""
    return replace(
        plan,
        features=plan.features | {"signal", "sleep", ODD_SIGNALS},
        pieces=("signal", "sleep", "call"),
        signals=6,
        spread_us=5 * SECOND,
        clock_back=True,
        kinds=("redrive", "kill", "database_clock"),
    )


def outboxes(plan: Plan) -> Plan:
    """Services write events about what they do, and the broker takes them badly."""
    return replace(
        plan,
        late_trouble=True,
        service_rate=min(plan.service_rate, 0.1),
        features=plan.features | {"map", "parallel"},
        pieces=("map", "parallel", "call"),
        enabled=plan.enabled | {"send.error", "send.appended_error"},
        rate=max(0.03, plan.rate),
        wire_rate=0.3,
    )


def abandoned(plan: Plan) -> Plan:
    """Sagas leave calls behind, and most of them pass a pivot or fail after it."""
    return replace(
        plan,
        features=plan.features | {"within", "pivot", "parallel"},
        pieces=("within", "within", "parallel"),
        endings=0.75,
        service_rate=0.3,
        refuse_rate=0.05,
    )


def bugs(plan: Plan) -> Plan:
    """A release with a bug meets sagas that have gone past it, and whose undo is held; old answers come once more."""
    return replace(
        plan,
        sagas=max(4, plan.sagas),
        features=plan.features | {"bug"},
        pieces=("bug", "call"),
        endings=0.75,
        spread_us=500_000,
        service_rate=min(plan.service_rate, 0.1),
        undos_per_minute=1,
        deploy=5,
        events=8,
        kinds=("redrive", "redrive", "kill"),
        horizon_us=8 * SECOND,
    )


def clocks(plan: Plan) -> Plan:
    """Clocks of machines jump while messages stay in outboxes: the broker refuses them, or their writer dies."""
    return replace(
        plan,
        enabled=plan.enabled | {"send.error", "kill.after_commit"},
        rate=max(0.03, plan.rate),
        wire_rate=max(0.1, plan.wire_rate),
        events=8,
        kinds=("jump", "jump", "kill"),
        horizon_us=8 * SECOND,
    )


def crowds(plan: Plan) -> Plan:
    """Commands of few sagas pile up before services, which now and then break."""
    return replace(
        plan,
        workers=1,
        sagas=max(2, plan.sagas),
        features=plan.features - {"manual", "readonly"} | {"map", "parallel"},
        pieces=("map", "parallel"),
        enabled=frozenset(("pause", "commit.ambiguous", "commit.failed")),
        rate=0.1,
        service_rate=0.1,
        later_rate=0.0,
        refuse_rate=0.2,
        wire_rate=0.0,
        events=0,
    )


def patience(plan: Plan) -> Plan:
    """Work takes long and says so, answers are put off and lost, workers change, and so do versions."""
    return replace(
        plan,
        instances=max(2, plan.instances),
        workers=2,
        features=plan.features | {"manual", "within", "parallel"},
        pieces=("call", "within", "parallel"),
        service_rate=max(0.1, plan.service_rate),
        refuse_rate=0.0,
        mute_rate=0.1,
        beats=True,
        skewed=True,
        later_rate=0.4,
        never_rate=0.3,
        wire_rate=max(0.1, plan.wire_rate),
        enabled=plan.enabled | {"send.delayed", "send.duplicate"},
        deploy=3,
        events=8,
        kinds=("rebalance", "kill", "redrive"),
    )


def lingering(plan: Plan) -> Plan:
    """Records wait for company, as long as nobody says that there will be none."""
    return replace(plan, linger_us=20_000, partitions=1, enabled=plan.enabled - {"pause"})


def bounds(plan: Plan) -> Plan:
    """Sagas are allowed short histories and few commands at a time."""
    return replace(
        plan,
        features=plan.features | {"parallel", "map"},
        pieces=("parallel", "call", "map", "sleep"),
        history_events=4,
        pending_commands=2,
        service_rate=min(plan.service_rate, 0.1),
    )


def steps_back(plan: Plan) -> Plan:
    """The database's clock steps back again and again, while one of two coordinators freezes over unread answers.

    Services answer at once, and what is due is due soon: within the time by which the clock has stepped back.
    """
    return replace(
        plan,
        instances=2,
        partitions=2,
        sagas=max(4, plan.sagas),
        features=plan.features | {"parallel", "within", "sleep"},
        pieces=("within", "sleep", "parallel"),
        enabled=frozenset(("pause", "broker.error")),
        rate=0.03,
        service_rate=0.0,
        refuse_rate=0.0,
        mute_rate=0.0,
        restart_us=200_000,
        spread_us=5 * SECOND,
        clock_back=True,
        events=20,
        kinds=("database_clock", "database_clock", "zombie", "kill"),
        horizon_us=8 * SECOND,
    )


def hangs(plan: Plan) -> Plan:
    """Databases leave calls without an answer, and what was sent may be done after its process has gone on."""
    return replace(
        plan,
        sagas=max(2, plan.sagas),
        enabled=frozenset(("db.hangs", "kill")),
        rate=0.1,
        events=4,
        kinds=("rebalance", "kill", "zombie"),
        horizon_us=20 * SECOND,
    )


def told(plan: Plan) -> Plan:
    """Code blocks while it is told of what it should recover from, or is skipped by a person; late answers follow."""
    return replace(
        plan,
        sagas=max(3, plan.sagas),
        features=plan.features | {"bug", "recover", "parked", "within"},
        pieces=("recover", "within", "recover", "parked"),
        endings=0.1,
        spread_us=500_000,
        service_rate=0.3,
        refuse_rate=0.05,
        mute_rate=0.3,
        undos_per_minute=None,
        deploy=6,
        people=8,
        events=4,
        kinds=("redrive", "redrive", "redrive", "kill"),
        horizon_us=20 * SECOND,
    )


def odd_headers(plan: Plan) -> Plan:
    """Services write what only advises as they like, and some outcomes in words of their own."""
    return replace(plan, odd_headers=True, service_rate=max(0.1, plan.service_rate), kinds=("redrive", "kill"))


def strangers(plan: Plan) -> Plan:
    """Other producers' transactions stay open on the coordinators' topics; services answer, and little time is left."""
    return replace(
        plan,
        sagas=max(4, plan.sagas),
        partitions=1,
        features=plan.features | {"within", "sleep"},
        pieces=("within", "sleep", "call"),
        enabled=frozenset(("pause", "broker.error")),
        rate=min(0.03, plan.rate),
        wire_rate=0.0,
        spread_us=5 * SECOND,
        events=16,
        kinds=("stranger", "stranger", "stranger", "kill"),
        horizon_us=20 * SECOND,
    )


def damage(plan: Plan) -> Plan:
    """Answers that nobody can read, while services are slow to answer and little time is left."""
    return replace(
        plan,
        sagas=max(4, plan.sagas),
        features=plan.features | {"parallel", "within"},
        pieces=("call", "parallel", "within"),
        enabled=frozenset(("pause", "broker.error")),
        rate=min(0.03, plan.rate),
        service_rate=max(0.3, plan.service_rate),
        wire_rate=0.0,
        spread_us=5 * SECOND,
        events=20,
        kinds=("damage", "damage", "damage", "damage", "kill"),
        horizon_us=20 * SECOND,
    )


def leaps(plan: Plan) -> Plan:
    """The database's clock jumps far ahead while sagas sleep and wait."""
    return replace(
        plan,
        sagas=max(4, plan.sagas),
        features=plan.features | {"within", "sleep"},
        pieces=("within", "sleep", "call"),
        enabled=frozenset(("pause",)),
        rate=min(0.03, plan.rate),
        spread_us=5 * SECOND,
        events=3,
        kinds=("leap", "leap", "rebalance"),
        horizon_us=8 * SECOND,
    )


def forgetful(plan: Plan) -> Plan:
    """Services lose the fence rows of what they have done, and then are asked to undo it."""
    return replace(
        plan,
        sagas=max(2, plan.sagas),
        rate=0.0,
        enabled=frozenset(),
        mute_rate=0.0,
        wire_rate=0.0,
        refuse_rate=0.2,
        people=0,
        deploy=0,
        pieces=("call", "sleep", "call"),
        features=plan.features | {"sleep"},
        endings=0.75,
        events=12,
        kinds=("forget",),
        horizon_us=8 * SECOND,
    )


def beating(plan: Plan) -> Plan:
    """Work takes far longer than its step's time and says so all along; whoever does it or listens may die."""
    return replace(
        plan,
        workers=2,
        features=plan.features | {"manual"},
        pieces=("call",),
        service_rate=0.1,
        refuse_rate=0.0,
        mute_rate=0.0,
        later_rate=0.0,
        beats=True,
        most_beats=24,
        undos_per_minute=None,
        people=0,
        events=6,
        kinds=("kill", "rebalance", "zombie"),
        horizon_us=20 * SECOND,
    )


def scopes(plan: Plan) -> Plan:
    """Sagas undo parts of themselves and go on, while services answer late and coordinators die."""
    return replace(
        plan,
        features=plan.features | {"scope", "take_back"},
        pieces=("scope", "take_back", "scope", "call"),
        endings=0.4,
        service_rate=0.1,
        refuse_rate=0.1,
        events=2,
        kinds=("redrive", "kill"),
        horizon_us=20 * SECOND,
    )


def rolling(plan: Plan) -> Plan:
    """Older builds are still there: they lack activities and a type of sagas. Services break and are slow as well."""
    return replace(
        plan,
        instances=max(2, plan.instances) if plan.jitter_us else plan.instances,
        sagas=max(2, plan.sagas),
        features=plan.features | {"optional", "readonly", "park", "pivot"},
        pieces=("call", "call", "parallel"),
        endings=0.75,
        service_rate=0.3,
        refuse_rate=0.05,
        mute_rate=0.0,
        undos_per_minute=None,
        deploy=0,
        older=True,
        events=3,
        kinds=("kill", "rebalance", "redrive"),
        horizon_us=20 * SECOND,
    )


def neighbours(plan: Plan) -> Plan:
    """Two names of coordinators share the database, with signals that go astray; some stand still meanwhile."""
    return replace(
        plan,
        names=2,
        instances=max(2, plan.instances),
        sagas=max(4, plan.sagas),
        features=plan.features | {"signal", "sleep", "within"},
        pieces=("call", "signal", "sleep", "within"),
        signals=2,
        spread_us=5 * SECOND,
        kinds=("kill", "zombie", "rebalance", "database_clock"),
    )


def hanging(plan: Plan) -> Plan:
    """Handlers hang, some after signs of life; most calls bound their attempts by less than the step's time."""
    return replace(
        plan,
        workers=2,
        features=plan.features | {"manual", ATTEMPTS},
        pieces=("call",),
        service_rate=0.3,
        refuse_rate=0.05,
        mute_rate=0.3,
        later_rate=0.0,
        beats=True,
        most_beats=6,
        undos_per_minute=None,
        people=0,
        events=4,
        kinds=("kill", "rebalance", "zombie"),
        horizon_us=20 * SECOND,
    )


def slots(plan: Plan) -> Plan:
    """Many commands for few slots, whose jobs take so long that some are sent again meanwhile."""
    return replace(
        plan,
        workers=1,
        sagas=6,
        partitions=1,
        spread_us=0,
        service_rate=0.1,
        mute_rate=0.1,
        events=2,
        kinds=("rebalance", "kill"),
        busy=True,
    )


def inputs(plan: Plan) -> Plan:
    """A release gives other inputs to the steps that sagas are in the middle of; some of them began with it."""
    return replace(
        plan,
        sagas=max(3, plan.sagas),
        features=plan.features | {"priced"},
        pieces=("priced",),
        endings=0.1,
        service_rate=0.3,
        refuse_rate=0.0,
        deploy=5 if plan.deploy % 2 else 6,
        events=4,
        kinds=("kill", "redrive"),
        horizon_us=8 * SECOND,
    )


def runs(plan: Plan) -> Plan:
    """Sagas go on in new runs while what the last one gave up is still being undone, and signals come meanwhile."""
    return replace(
        plan,
        sagas=max(3, plan.sagas),
        features=plan.features | {"continue", "signal", "within"},
        pieces=("within", "signal", "call"),
        signals=6,
        service_rate=0.3,
        refuse_rate=0.0,
        spread_us=500_000,
        events=2,
        kinds=("redrive", "kill"),
        horizon_us=8 * SECOND,
    )


def early(plan: Plan) -> Plan:
    """Many signals come before their sagas do, while the database's clock steps back and ahead."""
    return replace(
        plan,
        instances=1,
        sagas=6,
        partitions=1,
        features=plan.features | {"signal"},
        pieces=("signal", "signal", "call"),
        signals=6,
        rate=0.0,
        wire_rate=0.0,
        batch=3,
        spread_us=5 * SECOND,
        clock_back=True,
        events=30,
        kinds=("database_clock",),
        horizon_us=6 * SECOND,
    )


def refusals(plan: Plan) -> Plan:
    """The broker takes badly what relays send, again and again, and they have much to send."""
    return replace(
        outboxes(plan),
        sagas=max(3, plan.sagas),
        enabled=frozenset(("send.error", "broker.error", "send.lost")),
        rate=0.1,
        wire_rate=0.5,
        spread_us=500_000,
        events=0,
    )


def handed_over(plan: Plan) -> Plan:
    """What a worker has begun comes to another one, of an older build, while the first is still at it."""
    plan = rolling(plan)
    return replace(
        plan,
        workers=2,
        features=plan.features - {"readonly", "optional", "park"} | {"manual"},
        pieces=("call",),
        endings=1.0,
        service_rate=0.5,
        beats=True,
        busy=True,
        events=10,
        kinds=("rebalance", "zombie", "kill"),
    )


Focus = Callable[[Plan], Plan]
#: By name; a tape holds the number, so that new ones are added at the end.
FOCUSES: Mapping[str, Focus] = {
    focus.__name__: focus
    for focus in (
        zombies,
        recreated,
        cut_off,
        old_records,
        signals,
        outboxes,
        abandoned,
        bugs,
        clocks,
        crowds,
        patience,
        lingering,
        bounds,
        steps_back,
        hangs,
        told,
        odd_headers,
        forgetful,
        strangers,
        leaps,
        damage,
        beating,
        scopes,
        rolling,
        neighbours,
        hanging,
        slots,
        inputs,
        runs,
        early,
        refusals,
        handed_over,
    )
}


def number_of(seed: int, name: str | None = None) -> int:
    """The number of the focus called `name`, or else of the one that the schedule of this seed has; 0 for none."""
    if name is not None:
        return 1 + list(FOCUSES).index(name)
    return 0 if seed % SHARE else 1 + seed // SHARE % len(FOCUSES)


def name_of(seed: int) -> str | None:
    """The focus that the schedule of this seed has; None for most of them."""
    number = number_of(seed)
    return list(FOCUSES)[number - 1] if number else None


def focused(plan: Plan, number: int) -> Plan:
    """The plan with the conditions of focus `number`."""
    return list(FOCUSES.values())[number - 1](plan) if number else plan
