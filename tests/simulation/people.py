"""Everybody outside of the processes: clients, operators, who deploys, who breaks things, who mends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from segue.clock import to_micros
from segue.coordinator.store import OperatorRequest, RequestKind, SagaRow
from segue.ids import derive
from segue.saga.fold import fold
from segue.saga.state import SagaState
from segue.topics.broker import Record
from tests.simulation.broker import DELAYS, again, damaged
from tests.simulation.odd_headers import STRANGE
from tests.simulation.oracles import header
from tests.simulation.processes import NAMES
from tests.simulation.sagas import ODD_SIGNALS
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.processes import WorkerProcess
    from tests.simulation.system import System


def client(system: System) -> None:
    """Start the sagas, now and then twice, in conflict, or with a signal that is there before its saga."""
    from tests.simulation.system import draw_input

    plan, world = system.plan, system.world
    stream = system.tape.stream("client")
    for n in range(plan.sagas):
        saga_id = f"s{n}"
        name, body = draw_input(system, n)
        at = stream.pick(plan.spread_us) if plan.spread_us else 0
        record = system.send("start", saga_id, name, body, derive("start", saga_id))
        system.started[saga_id] = (name, body)
        world.at(at, lambda record=record: system.broker.append(record))  # type: ignore[misc]
        if stream.chance(0.15):
            delay = DELAYS[stream.pick(len(DELAYS))]
            world.at(at + delay, lambda record=record: system.broker.append(record))  # type: ignore[misc]
            world.faults["client.duplicate"] += 1
        if stream.chance(0.05):
            other = b'["seq","",%d,0,[]]' % (n + 1)
            system.conflict(other)
            rival = system.send("start", saga_id, name, other, derive("rival", saga_id))
            world.at(at + 1_000_000, lambda rival=rival: system.broker.append(rival))  # type: ignore[misc]
        if "signal" in plan.features:
            for k in range(stream.pick(plan.signals + 1)):
                body = b'{"odd":%d}' % k if ODD_SIGNALS in plan.features and k % 3 == 1 else b"%d" % k
                nudge = system.send("signal", saga_id, "nudge", body, derive("nudge", saga_id, str(k)))
                if plan.names > 1 and stream.chance(0.3):  # to coordinators whose saga it will never be
                    nudge = replace(nudge, topic=next(n for n in system.names if n.requests != nudge.topic).requests)
                when = stream.pick(6 * SECOND)
                for copy in range(1 + stream.pick(2)):
                    world.at(when + copy * 700_000, lambda nudge=nudge: system.broker.append(nudge))  # type: ignore[misc]


# --- trouble


def nemesis(system: System) -> None:
    """Things that happen to machines, networks and topics at moments of their own."""
    stream = system.tape.stream("nemesis")
    events = [EVENTS[kind] for kind in system.plan.kinds] or [event for _, event in _EVENTS]
    for _ in range(system.plan.events):
        when = stream.pick(system.plan.horizon_us)
        event = events[stream.pick(len(events))]
        how = stream.pick(1 << 16)
        system.world.at(when, lambda event=event, how=how: event(system, how))  # type: ignore[misc]
    if system.plan.skewed:
        for process in system.processes:
            process.skew_us = (0, -SECOND // 2, SECOND // 2, 2 * SECOND)[stream.pick(4)]


def _nothing(system: System, how: int) -> None:
    pass


def _kill(system: System, how: int) -> None:
    process = system.processes[how % len(system.processes)]
    if process.alive:
        system.world.faults["process.kill"] += 1
        process.kill()


def _zombie(system: System, how: int) -> None:
    """The group gives a member's partitions to others, and the member does not know."""
    process = system.processes[how % len(system.processes)]
    consumer = process.consumer
    if process.alive and consumer is not None:
        system.world.faults["group.zombie"] += 1
        consumer.stubborn_until = system.world.now + (500_000, 3 * SECOND, 10 * SECOND)[how // 64 % 3]
        consumer.expelled()


def _rebalance(system: System, how: int) -> None:
    process = system.processes[how % len(system.processes)]
    if process.alive and process.consumer is not None:
        system.world.faults["group.rebalance"] += 1
        process.consumer.expelled()
        system.world.wake(process, system.world.now + 1_000)


def _truncate(system: System, how: int) -> None:
    """An unclean election forgets acknowledged records of replies or commands."""
    topics = (NAMES.replies, *(NAMES.commands_of(name) for name in system.books))
    partitions = system.broker.partitions((topics[how % len(topics)],))
    if system.broker.cut_tail(partitions[how // 8 % len(partitions)], 1 + how // 64 % 4):
        system.world.faults["topic.truncated"] += 1


def _recreate(system: System, how: int) -> None:
    system.world.faults["topic.recreated"] += 1
    system.broker.recreate(NAMES.replies)


def _redrive(system: System, how: int) -> None:
    """Somebody sends an old record once more."""
    topics = (NAMES.replies, NAMES.requests, *(NAMES.commands_of(name) for name in system.books))
    records = system.broker.records(topics[how % len(topics)])
    if records:
        record = records[how // 8 % len(records)]
        if not system.forged(record):
            system.world.faults["record.redriven"] += 1
            system.broker.append(again(record))


def _poison(system: System, how: int) -> None:
    topics = (NAMES.replies, NAMES.replies, NAMES.requests)
    records = system.broker.records(topics[how % len(topics)])
    if records:
        system.forge(records[how // 8 % len(records)], 1 + how // 1024 % 4)


def _poison_soon(system: System, how: int) -> None:
    """An undecodable answer to a command that is outstanding."""
    for command, (saga, step, _, _) in reversed(system.oracles.shadow.commands.items()):
        if step.status == "issued" and saga.ended is None:
            key = saga.id.encode()
            headers = (("ce_causationid", command.encode()), ("ce_sagaid", key))
            system.forge(Record(topic=NAMES.replies, partition=0, offset=0, key=key, value=b"?", headers=headers), 1)
            return


def _jump(system: System, how: int) -> None:
    """A machine's clocks jump."""
    process = system.processes[how % len(system.processes)]
    system.world.faults["clock.jump"] += 1
    process.skew_us += (-3600 * SECOND, 3600 * SECOND, 5 * SECOND)[how // 64 % 3]
    process.jumped_us += (0, 3 * SECOND, 60 * SECOND)[how // 256 % 3]


def _database_clock(system: System, how: int) -> None:
    """The database's clock jumps ahead, or steps back."""
    world = system.world
    if system.plan.clock_back and how & 2:
        world.faults["clock.database_back"] += 1
        world.db_most, world.db_back_at = max(world.db_most, world.db_micros()), world.now
        world.db_skew -= (500_000, 3 * SECOND)[how % 2]
    else:
        world.faults["clock.database"] += 1
        world.db_skew += (500_000, 3 * SECOND)[how % 2]
    for row in system.database.tables.sagas.values():
        if row.wake_at is not None:
            system.arm(row.wake_at)


def _stranger(system: System, how: int) -> None:
    """Somebody else's transaction on a topic of the coordinators: it is open for a while, and most come to nothing."""
    topic = (NAMES.replies, NAMES.replies, NAMES.requests)[how % 3]
    commits = how // 4 % 4 == 0
    records = [damaged(record, 2) for record in system.broker.records(topic)[:3]]
    if not records:
        return
    system.world.faults["stranger.commits" if commits else "stranger.aborts"] += 1
    transaction = system.broker.transaction()
    system.forging = True
    written = [transaction.append(record) for record in records]
    system.forging = False
    system.strange(written)
    delay = (100_000, 2 * SECOND, 12 * SECOND, 60 * SECOND)[how // 16 % 4]
    system.world.at(system.world.now + delay, lambda: system.settle_strange(transaction, written, commits=commits))


def _damage(system: System, how: int) -> None:
    """An answer that nobody has read yet can't be unpacked by anybody; something that can comes behind it."""
    partitions = system.broker.partitions((NAMES.replies,))
    partition = partitions[how % len(partitions)]
    log = system.broker.log(partition)
    stored = system.database.tables.offsets.get((NAMES.coordinator, partition))
    if log.damaged or stored is None or not log.records or log.open:
        return
    last = log.records[-1]
    if last is None or last.offset < stored.next or system.forged(last):
        return
    if any(at > last.offset for member in system.broker.members for p, at in member.positions if p == partition):
        return  # somebody has it in hand already
    system.world.faults["record.damaged"] += 1
    system.broker.damage(last)
    system.damaged.append(last)
    for _ in range(2):
        system.forge(last, 2)


def _leap(system: System, how: int) -> None:
    """The database's clock jumps far ahead: all that somebody waits for is due at once."""
    system.world.faults["clock.leap"] += 1
    system.world.db_skew += (20 * SECOND, 100 * SECOND)[how % 2]
    for row in system.database.tables.sagas.values():
        if row.wake_at is not None:
            system.arm(row.wake_at)


def _forget(system: System, how: int) -> None:
    """A service loses the fence rows of what it has done: they were swept, or its database is one of yesterday."""
    for books in system.books.values():
        if books.running:
            continue
        for key, row in list(books.inbox.items()):
            known = system.oracles.shadow.commands.get(row["invoke_id"] or "")
            # An undo that went out before the success was known can't say that there is one.
            if known is not None and known[1].status == "succeeded" and known[1].undo == "none":
                del books.inbox[key]
                system.forgotten.add(key)
                system.world.faults["fence.forgotten"] += 1


_EVENTS: Sequence[tuple[str, Callable[[System, int], None]]] = (
    ("nothing", _nothing), ("kill", _kill), ("kill", _kill), ("zombie", _zombie), ("zombie", _zombie),
    ("rebalance", _rebalance), ("truncate", _truncate), ("recreate", _recreate), ("redrive", _redrive),
    ("redrive", _redrive), ("poison", _poison), ("poison_soon", _poison_soon), ("jump", _jump),
    ("database_clock", _database_clock),
)  # fmt: skip
#: The same by their names, and what only a focus asks for.
EVENTS = {**dict(_EVENTS), "damage": _damage, "stranger": _stranger, "leap": _leap, "forget": _forget}


# --- operators and deploys


def ask(system: System, kind: RequestKind, saga_id: str | None, *, letter: int | None = None, **arguments: Any) -> None:
    """Queue an operator request, as the CLI does."""
    now = system.world.db_now()
    request = OperatorRequest(
        kind=kind,
        saga_id=saga_id,
        dead_letter_id=letter,
        arguments=msgspec.json.encode(arguments),
        actor="ann",
        reason="simulated",
        not_before=now,
        created_at=now,
    )
    system.database.ask(request)
    for coordinator in system.coordinators:
        system.world.wake(coordinator, system.world.now + 50_000)


def operators(system: System) -> None:
    """People who act at any moment, wisely or not."""
    stream = system.tape.stream("people")
    for _ in range(system.plan.people):
        when = stream.pick(system.plan.horizon_us)
        what, whom = stream.pick(8), stream.pick(64)
        system.world.at(when, lambda what=what, whom=whom: _act(system, what, whom))  # type: ignore[misc]


def _act(system: System, what: int, whom: int) -> None:
    sagas = [row for row in system.database.tables.sagas.values() if row.ended_at is None]
    if not sagas:
        return
    row = sagas[whom % len(sagas)]
    steps = list(system.oracles.shadow.of(row.id).steps)
    system.world.faults["person.acts"] += 1
    match what:
        case 0:
            ask(system, "wake", row.id)
        case 1 | 2:
            ask(system, "cancel", row.id)
        case 3:
            ask(system, "cancel", row.id, compensate="none")
        case 4 if steps:
            ask(system, "cancel", row.id, compensate=f"to:{steps[whom % len(steps)]}")
        case 5:
            record = system.send("cancel", row.id, "all", b"null", derive("cancel", row.id))
            system.broker.append(record)
        case 6 | 7 if "parked" in system.plan.features and row.attention in ("parked", "in_doubt"):
            for name in _state(system, row).troubled:
                ask(system, "skip", row.id, step=name)
        case 6 if row.attention != "none":
            ask(system, "retry", row.id)
        case _:
            letters = [n for n, letter in system.database.tables.letters.items() if letter.state == "dead"]
            if letters:
                ask(system, "replay", None, letter=letters[whom % len(letters)])


#: What is deployed, and at which part of the horizon; every replacement costs as much as several transitions.
_DEPLOYS: Mapping[int, Sequence[tuple[float, str]]] = {
    3: ((0.2, "both"), (0.7, "one")),
    4: ((0.3, "both"),),
    5: ((0.2, "broken"),),
    6: ((0.0, "broken"), (0.8, "one")),
}


def deploys(system: System) -> None:
    """A new version midway and back, or a release with a bug."""
    plan = system.plan
    for part, release in _DEPLOYS.get(plan.deploy, ()):
        for n, coordinator in enumerate(system.coordinators):
            when = round(plan.horizon_us * part) + n * 700_000
            system.world.at(when, lambda c=coordinator, r=release: deploy(system, c, r))  # type: ignore[misc]


def deploy(system: System, coordinator: Any, release: str) -> None:
    """Replace one coordinator by one with another build."""
    system.deployed = True
    system.world.faults[f"deploy.{release}"] += 1
    coordinator.release = release
    coordinator.stop()


#: What an older build of a service's worker lacks: what it does, how that is undone, or all.
_OLDER: Sequence[Sequence[str]] = ((), ("do",), ("undo",), ("do", "undo", "hard"), ("long", "read", "hard"))


def rolling(system: System) -> None:
    """A rolling deploy: older builds are replaced one after the other, some only when all is mended."""
    plan = system.plan
    if not plan.older:
        return
    system.deployed = True
    stream = system.tape.stream("rolling")
    for worker in system.workers:
        lacks = _OLDER[stream.pick(len(_OLDER))]
        worker.lacks = frozenset(f"{worker.books.name}.{name}" for name in lacks)
        when = stream.pick(2 * plan.horizon_us)
        system.world.at(when, lambda w=worker: complete(system, w))  # type: ignore[misc]
    when = stream.pick(2 * plan.horizon_us)
    system.world.at(when, lambda: _deploy_older(system))


def _deploy_older(system: System) -> None:
    first = system.coordinators[0]
    if first.release == "older":
        deploy(system, first, "one")


def complete(system: System, worker: WorkerProcess) -> None:
    """Replace a worker by one that has everything."""
    if not worker.lacks:
        return
    system.world.faults["deploy.worker"] += 1
    worker.lacks = frozenset()
    if worker.alive:
        worker.stop()


def heal(system: System) -> None:
    """Everything that was broken is mended; from here on nothing bad happens."""
    world = system.world
    world.healed = True
    world.enabled = frozenset()
    world.interleave = world.wire_rate = 0.0
    system.broker.muted.clear()
    for desk in system.desks.values():
        desk.stream.disarm()
    for process in system.processes:
        process.stream.disarm()
        if process.consumer is not None:
            process.consumer.stubborn_until = 0
    for worker in system.workers:
        complete(system, worker)
    for coordinator in system.coordinators if system.deployed else ():
        if coordinator.release != "both":
            coordinator.release = "both"
            coordinator.stop()


def help(system: System, n: int) -> bool:
    """What only people can decide, they decide; whether there was anything."""
    helped = False
    tables = system.database.tables
    for row in tables.sagas.values():
        if row.ended_at is None and row.attention != "none":
            helped = True
            _help_one(system, row, n)
    return helped


def _needs_code(state: SagaState) -> bool:
    return not (state.undoing or state.returned or state.parked or state.held)


def _help_one(system: System, row: SagaRow, n: int) -> None:
    tables = system.database.tables
    system.world.points[f"attention.{row.attention}"] += 1
    if row.attention == "blocked":
        kept = [k for k, letter in tables.letters.items() if letter.state == "received" and letter.saga_id == row.id]
        if kept:
            for k in kept:
                if header(tables.letters[k].record.headers, "ce_sagaoutcome") == STRANGE:
                    ask(system, "replay", None, letter=k, headers={"ce_sagaoutcome": "success"})
                else:
                    ask(system, "discard" if n % 2 else "replay", None, letter=k)
        elif row.error_code in ("history_limit", "command_limit") and n % 3:
            ask(system, "cancel", row.id, compensate="all" if n % 3 == 1 else "none")
        elif row.error_code == "nondeterminism" and n >= 2 and _needs_code(state := _state(system, row)):
            # It began with a build that nobody runs any more.
            ask(system, "cancel", row.id, compensate="none" if state.pivot else "all")
        else:
            ask(system, "retry", row.id)
        return
    state = _state(system, row)
    if n < 3 and state.troubled:
        ask(system, "retry", row.id)
        return
    if not state.troubled:
        ask(system, "cancel", row.id, compensate="none")
        return
    for name, trouble in state.troubled.items():
        if trouble == "in_doubt":
            done = system.done(row.id, name, "invoke")
            output = {"amount": 1} if done and ".hard" not in name else None
            ask(system, "resolve", row.id, step=name, outcome="success" if done else "failure", output=output)
        else:
            ask(system, "skip", row.id, step=name)


def _state(system: System, row: SagaRow) -> SagaState:
    return fold(row.id, ((to_micros(event.at), event.payload) for event in system.database.tables.events[row.id]))
