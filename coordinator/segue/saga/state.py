"""The state of one saga: the fold of its events. `apply` is the only function that changes it, and it decides nothing.

Folding needs no saga code. What the code is to be told (a step's outcome, a fired timer, a signal) queues up in
`deliveries`; whoever has the code hands them over, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Literal

import msgspec

from segue.ids import CommandId, command_id, first_saga_key, saga_key
from segue.saga import events as e
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, Retry
from segue.saga.signs import Signs
from segue.saga.steps import NEVER, Delivery, Step

Attention = Literal["none", "parked", "blocked", "deferred", "in_doubt"]
Alarm = Literal[
    "due",
    "resend",
    "retry",
    "undo_due",
    "undo_resend",
    "undo_retry",
    "attempt",
    "undo_attempt",
    "timer",
    "held",
    "deadline",
]

#: Order among alarms of the same moment: send again before giving up, the saga's own deadline last.
_ALARM_ORDER: dict[str, int] = {
    name: n
    for n, name in enumerate(
        (
            "retry",
            "undo_retry",
            "resend",
            "undo_resend",
            "timer",
            "attempt",
            "undo_attempt",
            "due",
            "undo_due",
            "held",
            "deadline",
        )
    )
}

#: Where the time of an alarm stands: whether with the undo of its step, and in which field.
_FIELD_OF: dict[str, tuple[bool, str]] = {
    "due": (False, "due"),
    "resend": (False, "resend"),
    "retry": (False, "retry_at"),
    "attempt": (False, "attempt_due"),
    "undo_due": (True, "due"),
    "undo_resend": (True, "resend"),
    "undo_retry": (True, "retry_at"),
    "undo_attempt": (True, "attempt_due"),
}


class SagaState(msgspec.Struct):
    """Everything there is to know about a saga. Built by `apply` alone."""

    id: str
    coordinator: str = ""
    definition: str = ""
    version: int = 0
    #: Of this run, and of the first one.
    input: msgspec.Raw = e.NULL
    started_with: msgspec.Raw = e.NULL
    #: A digest of the bytes that the start came with, if these are not the canonical ones.
    asked: str = ""
    #: The number of this run, of its first transition, and of that of the run before it (0: there is none).
    run: int = 1
    first_seq: int = 1
    previous_seq: int = 0
    #: Set when the code has asked for a new run, until that begins.
    next: e.RunEnded | None = None
    status: str = "running"
    result: msgspec.Raw | None = None
    error: e.Failure | None = None
    deadline: int = NEVER
    deadline_missed: bool = False
    #: The deadline as it was promised: it stays where it is when the other one stands still, and moves.
    promised: int = NEVER
    #: The deadline does not stand still while a person is waited for.
    deadline_runs: bool = False
    #: Since when a person is waited for, while the deadline stands still for it.
    waiting_since: int | None = None
    #: Why a compensation was deferred, the first one.
    undo_error: e.Failure | None = None
    compensation: Retry = DEFAULT_COMPENSATION_RETRY
    compensation_timeout: int = 0
    trace: tuple[tuple[str, str], ...] = ()
    attributes: dict[str, msgspec.Raw] = {}
    steps: dict[str, Step] = {}
    open_steps: dict[str, Step] = {}
    commands: dict[CommandId, tuple[str, e.Action, int]] = {}
    #: What came of commands that are being worked on; those that are answered have none.
    signs: dict[CommandId, Signs] = {}
    timers: dict[int, int] = {}
    receives: dict[int, str] = {}
    #: By when the signals of some waits should have come; those of waits that are over do not matter.
    expected: dict[int, int] = {}
    #: Signals that nobody has received, by name, first come first.
    signals: dict[str, list[e.SignalReceived]] = {}
    deliveries: list[Delivery] = []
    undriven: bool = False
    blocked: e.Failure | None = None
    parked: e.Failure | None = None
    #: An undo that the breaker holds back for now.
    held: e.StopHeld | None = None
    undriven_since: int = 0
    #: Commands that were sent by then went out again, as answers to them may have been lost.
    asked_since: int = 0
    pivot: bool = False
    returned: bool = False
    stop: e.StopRequested | None = None
    ended: bool = False
    started_at: int = 0
    updated_at: int = 0
    ended_at: int | None = None
    revision: int = 0
    count: int = 0
    alarms: list[tuple[int, int, int, Alarm, str]] = []
    #: Steps that a person must look at, by name: kept so that `attention` needs no scan.
    troubled: dict[str, Attention] = {}
    #: Steps whose compensation is under way or still to come while the saga goes forward.
    abandoned: dict[str, Step] = {}
    #: What the code wants undone now, by request: the steps that are not undone yet.
    undo_requests: dict[int, dict[str, None]] = {}
    #: Steps whose compensation is out, waits for its next attempt, or is deferred.
    undos: dict[str, Step] = {}

    @property
    def attention(self) -> Attention:
        """The most urgent reason why a person is needed."""
        if self.ended:
            return "none"
        if self.blocked is not None:
            return "blocked"
        kinds = set(self.troubled.values())
        for kind in ("in_doubt", "deferred", "parked"):
            if kind in kinds:
                return kind
        return "parked" if self.parked is not None or self.held is not None else "none"

    @property
    def waits_for_person(self) -> bool:
        """Whether the saga's deadline stands still because a person is waited for; blocked ones get it back anyway."""
        if self.stop is not None or self.ended or self.deadline_runs:
            return False
        return bool(self.troubled) or self.parked is not None

    @property
    def trouble(self) -> e.Failure | None:
        """Why a person is waited for: the first cause, not that of an undo."""
        cause = self.blocked or self.parked or (self.held.error if self.held is not None else None)
        if cause is None and self.troubled:
            errors = (self.steps[name].error for name, why in self.troubled.items() if why != "deferred")
            cause = next(errors, None)
        return cause

    @property
    def expected_at(self) -> int:
        """By when the next signal should have come that the code waits for; NEVER if nobody said."""
        if self.ended or not self.expected:
            return NEVER
        return min((at for n, at in self.expected.items() if n in self.receives), default=NEVER)

    @property
    def undoing(self) -> bool:
        """The undo engine runs over all steps."""
        return self.stop is not None

    def untold(self, step: Step) -> bool:
        """Whether its code, which is blocked or not here, has not taken what it is to be told of this step."""
        return any(delivery.kind == "step" and delivery.step == step.name for delivery in self.deliveries)

    @property
    def run_is_over(self) -> bool:
        """The next run can begin: it was asked for, and nothing of this one is open or still to be undone."""
        if self.next is None or self.stop is not None or self.ended or self.undriven:
            return False
        return not (self.open_steps or self.undos or self.abandoned)

    def command_id(self, step: Step, action: e.Action) -> CommandId:
        """The id of the command that is (or was last) out for this step."""
        known = step.command if action == "invoke" else step.undo.command
        attempt = step.attempt if action == "invoke" else step.undo.attempt
        return known or command_id(self.coordinator, self.id, step.name, action, attempt)

    def key_of(self, step: Step) -> str:
        """The participant's fence key of this step: the one that its first command had."""
        if step.keyed:
            return saga_key(self.coordinator, self.id, step.name)
        return first_saga_key(self.id, step.name)

    def alarm(self) -> tuple[int, Alarm, str] | None:
        """The next alarm: when (microseconds), what, and for which step or timer. Outdated entries are dropped."""
        while self.alarms:
            at, _, _, what, name = self.alarms[0]
            if self._alarm_at(what, name) == at:
                return at, what, name
            heappop(self.alarms)
        return None

    def set_alarm(self, what: Alarm, name: str, at: int) -> None:
        """Queue an alarm; the field it belongs to must already hold `at`."""
        if at < NEVER:
            heappush(self.alarms, (at, _ALARM_ORDER[what], self.count, what, name))

    def _alarm_at(self, what: Alarm, name: str) -> int:
        """When this alarm is due by now; NEVER if it is not needed any more."""
        if what == "deadline":
            over = self.stop is not None or self.deadline_missed or self.ended or self.held is not None
            return NEVER if over or self.waits_for_person else self.deadline
        if what == "held":
            return self.held.until if self.held is not None else NEVER
        if what == "timer":
            return self.timers.get(int(name), NEVER)
        step = self.steps[name]
        undo, field = _FIELD_OF[what]
        moment: int = getattr(step.undo if undo else step, field)
        return moment


def steps_to_undo(state: SagaState) -> Iterator[Step]:
    """Every step that the undo covers and that is neither undone nor given up, in the order of issue."""
    if state.stop is None:
        yield from state.abandoned.values()
        return
    target = state.steps.get(state.stop.compensate[3:]) if state.stop.compensate.startswith("to:") else None
    # What was issued before the step that stays, and not done when that was, belongs to what came after it.
    floor, done = (target.number, target.settled) if target else (-1, -1)
    for step in state.steps.values():
        if (
            step.compensate
            and step.status in ("succeeded", "unknown")
            and step.undo.status not in ("done", "given_up")
            and (step.abandoned or (state.stop.compensate != "none" and (step.number > floor or step.settled > done)))
        ):
            yield step
