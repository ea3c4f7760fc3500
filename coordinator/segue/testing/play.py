"""One run of a saga with planned faults: commands and replies travel, are lost, doubled and overtaken, on one clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Literal, TypeAlias

from segue.contract import Signal
from segue.saga.definition import SagaDefinition
from segue.saga.effects import SendCommand
from segue.saga.inputs import Cancel, Input, Reply, RetryStep, SignalArrived, Wake
from segue.testing.contracts import AnyActivity, Contracts
from segue.testing.faults import ONCE, Fault, Plan, Point, PointKind
from segue.testing.participants import Behaviour, Participants
from segue.testing.virtual import VirtualSaga, describe_command, describe_reply, raw

#: Microseconds that a message travels.
_LATENCY = 1_000
#: When the copies of a doubled message come: at once, while the next step is under way, and much later.
_COPIES = (_LATENCY, _LATENCY * 3 // 2, _LATENCY * 7 // 2, 3_000_000)
#: How much later a reply comes that others overtake: sooner than silence is answered.
_OVERTAKEN = 3_000_000
#: What is left of a crashed coordinator's outbox is published so much later.
_RELAY = 10_000_000
#: How long a `pending` activity takes.
_PENDING = 20_000_000
#: How far after its deadline a late reply comes, and, later, a late command: after its undo.
_LATE_REPLY, _LATE_COMMAND = 1_000_000, 60_000_000
#: So many attempts come to workers of an older build.
_LACKED = 2
#: A person retries what waits for one, so often.
_PERSON = 3

_BEHAVIOUR: dict[Fault, Behaviour] = {
    Fault.REFUSED: "refuse",
    Fault.RETRIED: "retry",
    Fault.RETRIED_ALWAYS: "retry",
    Fault.EFFECT_UNKNOWN: "effect_unknown",
    Fault.PENDING: "pending",
    Fault.PENDING_ONLY: "pending",
    Fault.MISMATCHED: "lacking",
}
_What: TypeAlias = Literal["publish", "arrive", "later", "input"]


@dataclass(slots=True)
class Stand:
    """Where a saga stood when nothing moved it any more."""

    status: str
    attention: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all runs of an exploration share."""

    definition: SagaDefinition[Any, Any]
    input: Any
    activities: Callable[[], Mapping[AnyActivity, Callable[[Any], Any]]]
    signals: Mapping[Signal[Any], Any]
    #: When to leave a saga that goes on and on, in microseconds after its start.
    until: int | None = None


@dataclass(slots=True)
class _Mischief:
    """Faults that are in force: of single deliveries by command id, of all deliveries by (step, action)."""

    once: dict[str, Fault] = field(default_factory=dict)
    always: dict[tuple[str, str], Fault] = field(default_factory=dict)

    def begin(self, command: SendCommand, fault: Fault) -> None:
        if fault in ONCE:
            self.once[command.id] = fault
        else:
            self.always[command.step, command.action] = fault

    def of(self, command: SendCommand) -> Fault | None:
        return self.once.get(command.id) or self.always.get((command.step, command.action))

    def take(self, command: SendCommand, *faults: Fault) -> Fault | None:
        """The fault in force if it is one of these; one of a single delivery is used up."""
        fault = self.of(command)
        if fault not in faults:
            return None
        self.once.pop(command.id, None)
        return fault

    def clear(self) -> None:
        self.once.clear()
        self.always.clear()


class Play:
    """Plays one plan to the end; afterwards `saga`, `truth`, `points` and `stands` tell what happened."""

    def __init__(self, world: World, plan: Plan, *, evict: bool = True) -> None:
        functions = world.activities()
        contracts = Contracts(functions)
        self.world = world
        self.plan = {planned.point.number: planned.fault for planned in plan}
        self.saga = VirtualSaga(world.definition, contracts, evict=evict)
        self.participants = Participants(
            self.saga.saga_id,
            world.definition.name,
            contracts,
            {activity.name: function for activity, function in functions.items()},
            self.saga.converter,
        )
        self.truth = self.participants.truth
        self.points: list[Point] = []
        #: Where it stood when the faults were over, and again each time after a person had retried.
        self.stands: list[Stand] = []
        #: It was left while something was still to come, because `until` was over.
        self.left_alive = False
        #: Signals that the saga has waited for, and that nobody sends.
        self.unsent: set[str] = set()
        self._signals = {signal.name: (signal, value) for signal, value in world.signals.items()}
        self._awaited: set[int] = set()
        self._mischief = _Mischief()
        self._queue: list[tuple[int, int, _What, Any]] = []
        self._count = 0
        self._ticks = 0
        self._faults_over = False
        self._sent: set[str] = set()
        #: Commands that were answered `pending`, and never will be again.
        self._pending: set[str] = set()

    def run(self) -> None:
        """Raises NondeterministicSaga, NeverEnds, NotMocked and what users' functions assert."""
        fault = self._point("start", "start")
        self._moved(self.saga.begin(self.world.input), fault)
        self._until_it_rests()
        for _ in range(_PERSON):
            if self.saga.state.attention not in ("parked", "in_doubt", "deferred"):
                return
            # The faults are over and a person retries: what waits visibly must be able to end.
            self._mischief.clear()
            self._faults_over = True
            self.saga.say("→ the faults are over; a person retries")
            if not self._happen(RetryStep()):
                return
            self._until_it_rests()

    # --- the loop

    def _until_it_rests(self) -> None:
        saga = self.saga
        while True:
            at = self._queue[0][0] if self._queue else None
            wake_at = None if saga.state.ended else saga.wake_at
            if at is None and wake_at is None:
                break
            if self._lived_long_enough(min(one for one in (at, wake_at) if one is not None)):
                break
            if wake_at is not None and (at is None or wake_at < at):
                saga.now = max(saga.now, wake_at)
                self._happen(Wake(gate=saga.now))
                continue
            saga.now, _, what, item = heappop(self._queue)
            self._due(what, item)
        failure = saga.state.blocked or saga.state.parked or saga.state.error
        stand = Stand(saga.state.status, saga.state.attention, failure.code if failure is not None else "")
        self.stands.append(stand)

    def _lived_long_enough(self, following: int) -> bool:
        until = self.world.until
        self.left_alive = until is not None and following > self.saga.started_at + until and not self.saga.state.ended
        return self.left_alive

    def _later(self, delay: int, what: _What, item: Any) -> None:
        self._count += 1
        heappush(self._queue, (self.saga.now + delay, self._count, what, item))

    def _due(self, what: _What, item: Any) -> None:
        match what:
            case "publish":
                self._publish(item)
            case "arrive":
                self._arrive(item)
            case "later":
                self._reply(item, self.participants.answer_later(item))
            case "input":
                happened, told = item
                self.saga.say(told)
                self._happen(happened)

    # --- the saga

    def _happen(self, happened: Input) -> bool:
        saga = self.saga
        rows = len(saga.rows)
        fault = self._point("transition", self._subject(happened))
        try:
            commands = saga.happen_again(happened) if fault is Fault.CRASH_BEFORE else saga.happen(happened)
        finally:
            if len(saga.rows) == rows and not self._faults_over:
                self.points.pop()  # it changed nothing, so nothing can go wrong with it
        self._moved(commands, fault)
        return len(saga.rows) > rows

    def _moved(self, commands: list[SendCommand], fault: Fault | None) -> None:
        if fault is Fault.CANCELLED:
            cancel = Cancel(compensate="all", reason="cancelled by explore")
            self._later(0, "input", (cancel, "→ a person cancels"))
        for command in commands:
            if fault is Fault.CRASH_AFTER:
                self.saga.say(f"! crash before {command.activity} is published; the relay does it later")
                self._later(_RELAY, "publish", command)
            else:
                self._publish(command)
        self._signal()

    def _signal(self) -> None:
        for n, name in self.saga.state.receives.items():
            if name not in self._signals:
                self.unsent.add(name)
                continue
            if n in self._awaited:
                continue
            self._awaited.add(n)
            signal, value = self._signals[name]
            fault = self._point("signal", f"signal {name}")
            data = self.saga.converter.to_bytes(value, signal.type)
            arrived = SignalArrived(name=name, payload=raw(data)), f"→ signal {name}"
            for times in range({Fault.SIGNAL_NEVER: 0, Fault.SIGNAL_TWICE: 2}.get(fault or Fault.REFUSED, 1)):
                self._later(1_000_000 * (times + 1), "input", arrived)

    def _subject(self, happened: Input) -> str:
        match happened:
            case Reply():
                step, action, _ = self.saga.command(happened.command_id)
                return f"after {'undo of ' if action == 'compensate' else ''}{step}"
            case SignalArrived():
                return f"after signal {happened.name}"
            case Wake():
                return "after a timer"
            case _:
                return "after a person"

    def _point(self, kind: PointKind, subject: str) -> Fault | None:
        """Count a point, and say what the plan has for it. There are none once a person retries: nothing fails then."""
        if self._faults_over:
            return None
        self._ticks += 1
        self.points.append(Point(self._ticks, kind, subject))
        return self.plan.get(self._ticks)

    # --- commands and replies

    def _publish(self, command: SendCommand) -> None:
        if command.id not in self._sent:
            self._sent.add(command.id)
            undo = command.action == "compensate"
            fault = self._point("undo" if undo else "command", f"{'undo of ' if undo else ''}{command.step}")
            self.saga.say(f"→ {describe_command(command)}")
            if fault is not None:
                self.saga.say(f"  (fault: {fault})")
                self._mischief.begin(command, fault)
        match self._mischief.take(
            command, Fault.COMMAND_LOST, Fault.COMMAND_COPIED, Fault.NEVER_ARRIVES, Fault.UNDO_BEFORE_DO
        ):
            case Fault.COMMAND_LOST | Fault.NEVER_ARRIVES:
                return
            case Fault.COMMAND_COPIED:
                for delay in _COPIES:
                    self._later(delay, "arrive", command)
            case Fault.UNDO_BEFORE_DO:
                self._later(self._after_deadline(command, _LATE_COMMAND), "arrive", command)
            case _:
                self._later(_LATENCY, "arrive", command)

    def _arrive(self, command: SendCommand) -> None:
        fault = self._mischief.of(command)
        behaviour = _BEHAVIOUR.get(fault, "normal") if fault is not None else "normal"
        if behaviour == "lacking" and command.attempt > _LACKED:
            behaviour = "normal"
        reply = self.participants.receive(command, self.saga.now, behaviour)
        self._mischief.take(command, Fault.RETRIED, Fault.PENDING)
        if fault is Fault.PENDING or (self._faults_over and command.id in self._pending):
            self._later(_PENDING, "later", command)
        if fault is Fault.PENDING_ONLY:
            if command.id in self._pending:
                return
            self._pending.add(command.id)
        self._reply(command, reply)

    def _reply(self, command: SendCommand, reply: Reply | None) -> None:
        if reply is None:
            return
        told = (reply, describe_reply(command, reply))
        match self._mischief.take(
            command, Fault.REPLY_LOST, Fault.REPLY_COPIED, Fault.REPLY_SLOW, Fault.NEVER_ANSWERS, Fault.LATE_SUCCESS
        ):
            case Fault.REPLY_LOST | Fault.NEVER_ANSWERS:
                self.saga.say(f"← {command.activity} has done it, and the reply is lost")
            case Fault.REPLY_COPIED:
                for delay in _COPIES:
                    self._later(delay, "input", told)
            case Fault.REPLY_SLOW:
                self._later(_OVERTAKEN, "input", told)
            case Fault.LATE_SUCCESS:
                self._later(self._after_deadline(command, _LATE_REPLY), "input", told)
            case _:
                self._later(_LATENCY, "input", told)

    def _after_deadline(self, command: SendCommand, margin: int) -> int:
        assert command.deadline is not None, "compensations have no deadline and no such fault"
        return max(command.deadline + margin - self.saga.now, _LATENCY)
