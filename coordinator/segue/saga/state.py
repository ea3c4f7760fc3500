"""The state of one saga: the fold of its events. `apply` is the only function that changes it, and it decides nothing.

Folding needs no saga code. What the code is to be told (a step's outcome, a fired timer, a signal) queues up in
`deliveries`; whoever has the code hands them over, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Literal, assert_never

import msgspec
from msgspec.structs import replace

from segue.ids import CommandId, command_id
from segue.saga import events as e
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, DEFAULT_RETRY, Retry, resend_delay
from segue.saga.signs import Signs
from segue.saga.steps import NEVER, Delivery, Step, StepStatus, undo_body

Attention = Literal["none", "parked", "blocked", "deferred", "in_doubt"]
Alarm = Literal["due", "resend", "retry", "undo_due", "undo_resend", "undo_retry", "timer", "held", "deadline"]

#: Order among alarms of the same moment: send again before giving up, the saga's own deadline last.
_ALARM_ORDER: dict[str, int] = {
    name: n
    for n, name in enumerate(
        ("retry", "undo_retry", "resend", "undo_resend", "timer", "due", "undo_due", "held", "deadline")
    )
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
    signals: dict[str, list[msgspec.Raw]] = {}
    deliveries: list[Delivery] = []
    undriven: bool = False
    blocked: e.Failure | None = None
    parked: e.Failure | None = None
    #: An undo that the breaker holds back for now.
    held: e.StopHeld | None = None
    undriven_since: int = 0
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
    def undoing(self) -> bool:
        """The undo engine runs over all steps."""
        return self.stop is not None

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
            return self.deadline if self.stop is None and not self.deadline_missed and not self.ended else NEVER
        if what == "held":
            return self.held.until if self.held is not None else NEVER
        if what == "timer":
            return self.timers.get(int(name), NEVER)
        step = self.steps[name]
        times: dict[str, int] = {
            "due": step.due,
            "resend": step.resend,
            "retry": step.retry_at,
            "undo_due": step.undo.due,
            "undo_resend": step.undo.resend,
            "undo_retry": step.undo.retry_at,
        }
        return times[what]


def fold(saga_id: str, transitions: Iterable[tuple[int, bytes]]) -> SagaState:
    """The state after these transitions: (microseconds, payload) of each `saga_event` row, in the order of `seq`."""
    state = SagaState(saga_id)
    for at, payload in transitions:
        for event in e.decode_events(payload):
            apply(state, event, at)
        end_transition(state, at)
    return state


def end_transition(state: SagaState, at: int) -> None:
    """Close one row of the history: whatever the code could be told in it, it has been told."""
    state.revision += 1
    state.updated_at = at
    if not state.undriven:
        state.deliveries.clear()


def apply(state: SagaState, event: e.AnyEvent, at: int) -> None:
    """Fold one event, recorded at `at` microseconds, into the state."""
    state.count += 1
    match event:
        case e.StepScheduled():
            _scheduled(state, event, at)
        case e.CommandSent():
            _sent(state, event, at)
        case e.CommandResent():
            _resent(state, event)
        case e.StepSucceeded():
            _succeeded(state, event, at)
        case e.Started() | e.ProgramReturned() | e.Ended():
            _saga(state, event, at)  # each saga has them; the last place is for what is rare
        case e.TimerStarted():
            state.timers[event.n] = event.at
            state.set_alarm("timer", str(event.n), event.at)
        case e.TimerFired():
            state.timers.pop(event.n, None)
            state.deliveries.append(Delivery("timer", n=event.n))
        case e.TimerCancelled():
            state.timers.pop(event.n, None)
        case e.ReceiveStarted() | e.ReceiveCancelled() | e.SignalReceived():
            _signal(state, event)
        case e.StepFailed() | e.StepUnknown() | e.StepSkipped() | e.StepParked() | e.StepInDoubt() | e.StepAbandoned():
            _spent(state, event, at)
        case e.StepUndone() | e.UndoDeferred() | e.UndoGivenUp():
            _undone(state, event)
        case e.ProgressReported() | e.RetryPlanned():
            _postponed(state, event, at)
        case e.LateReply():
            pass
        case _:
            _saga(state, event, at)


def _saga(
    state: SagaState,
    event: e.Started
    | e.PivotPassed
    | e.AttributeSet
    | e.ProgramReturned
    | e.RunEnded
    | e.Continued
    | e.StopRequested
    | e.StopHeld
    | e.DeadlineMissed
    | e.Undriven
    | e.Redriven
    | e.SagaParked
    | e.Ended,
    at: int,
) -> None:
    match event:
        case e.Started() | e.Continued() | e.RunEnded():
            _run(state, event, at)
        case e.PivotPassed():
            state.pivot = True
        case e.AttributeSet():
            state.attributes[event.name] = event.value
        case e.ProgramReturned():
            state.returned = True
            state.result = event.result
        case e.StopRequested():
            _stopped(state, event)
        case e.StopHeld():
            _held(state, event)
        case e.DeadlineMissed():
            state.deadline_missed = True
        case e.Undriven():
            while len(state.deliveries) > event.pending:
                state.deliveries.pop(0)
            if not state.undriven:
                state.undriven_since = at
            state.undriven = True
            state.blocked = event.error
        case e.Redriven():
            _redriven(state, event, at)
        case e.SagaParked():
            state.parked = event.error
        case e.Ended():
            state.ended = True
            state.status = event.status
            state.ended_at = at
            state.blocked = state.parked = state.held = None
        case _:
            assert_never(event)


def _run(state: SagaState, event: e.Started | e.Continued | e.RunEnded, at: int) -> None:
    match event:
        case e.Started():
            _started(state, event, at)
        case e.Continued():
            _continued(state, event, at)
        case e.RunEnded():
            _run_ended(state, event)
        case _:
            assert_never(event)


def _started(state: SagaState, event: e.Started, at: int) -> None:
    state.coordinator = event.coordinator
    state.definition = event.definition
    state.version = event.version
    state.input = state.started_with = event.input
    state.compensation = event.compensation or DEFAULT_COMPENSATION_RETRY
    state.compensation_timeout = event.compensation_timeout
    state.trace = event.trace
    state.started_at = state.updated_at = at
    if event.deadline is not None:
        state.deadline = event.deadline
        state.set_alarm("deadline", "", event.deadline)
    state.deliveries.append(Delivery("start"))


def _run_ended(state: SagaState, event: e.RunEnded) -> None:
    state.returned = True
    state.next = event
    state.timers.clear()
    state.receives.clear()
    untold = state.deliveries[len(state.deliveries) - event.pending :]
    for delivery in reversed(untold):
        if delivery.kind == "signal":
            state.signals.setdefault(delivery.step, []).insert(0, delivery.payload)
    state.deliveries.clear()
    if event.deadline is not None:
        state.deadline, state.deadline_missed = event.deadline, False
        state.set_alarm("deadline", "", event.deadline)


def _continued(state: SagaState, event: e.Continued, at: int) -> None:
    """What the event does not carry is as in a new saga: the state is the same, whether or not it had a run before."""
    fresh = SagaState(state.id)
    for name in SagaState.__struct_fields__:
        setattr(state, name, getattr(fresh, name))
    state.count = 1
    state.run = event.run
    state.first_seq, state.previous_seq = event.transitions + 1, event.previous
    state.revision = event.transitions
    state.coordinator, state.definition, state.version = event.coordinator, event.definition, event.version
    state.input = event.input
    state.started_with = event.started_with if bytes(event.started_with) else event.input
    state.started_at, state.updated_at = event.started_at, at
    state.compensation = event.compensation or DEFAULT_COMPENSATION_RETRY
    state.compensation_timeout = event.compensation_timeout
    state.trace = event.trace
    state.attributes = dict(event.attributes)
    state.signals = {name: list(waiting) for name, waiting in event.signals.items()}
    state.deadline_missed = event.deadline_missed
    if event.deadline is not None:
        state.deadline = event.deadline
        state.set_alarm("deadline", "", event.deadline)
    state.deliveries.append(Delivery("start"))


def _stopped(state: SagaState, event: e.StopRequested) -> None:
    state.stop = event
    state.status = "compensating"
    state.error = event.error
    state.timers.clear()
    state.receives.clear()
    state.deliveries.clear()
    state.undriven = False
    state.blocked = state.parked = state.held = None


def _held(state: SagaState, event: e.StopHeld) -> None:
    """A deadline is only put off; a failure has ended the code, so nothing but the undo can follow."""
    if event.cause == "deadline":
        state.deadline = event.until
        state.set_alarm("deadline", "", event.until)
    else:
        state.held = event
        state.set_alarm("held", "", event.until)


def _redriven(state: SagaState, event: e.Redriven, at: int) -> None:
    """The clock stood still: deadlines move. What was to be sent meanwhile is sent now, not later by another shift."""
    state.undriven = False
    state.blocked = None
    shift = event.shift
    if not shift:
        return
    if state.deadline < NEVER:
        state.deadline += shift
        state.set_alarm("deadline", "", state.deadline)
    for step in state.open_steps.values():
        if step.due < NEVER:
            step.due, step.first_sent = step.due + shift, step.first_sent + shift
            step.resend, step.retry_at = max(step.resend, at), max(step.retry_at, at)
            _set_alarms(state, step)
    for step in state.undos.values():
        if step.undo.due < NEVER:
            undo = step.undo
            step.undo = replace(
                undo,
                due=undo.due + shift,
                first_sent=undo.first_sent + shift,
                resend=max(undo.resend, at),
                retry_at=max(undo.retry_at, at),
            )
            _set_undo_alarms(state, step)
    for n in state.timers:
        state.timers[n] += shift
        state.set_alarm("timer", str(n), state.timers[n])


def _set_alarms(state: SagaState, step: Step) -> None:
    state.set_alarm("due", step.name, step.due)
    state.set_alarm("resend", step.name, step.resend)
    state.set_alarm("retry", step.name, step.retry_at)


def _set_undo_alarms(state: SagaState, step: Step) -> None:
    state.set_alarm("undo_due", step.name, step.undo.due)
    state.set_alarm("undo_resend", step.name, step.undo.resend)
    state.set_alarm("undo_retry", step.name, step.undo.retry_at)


def _scheduled(state: SagaState, event: e.StepScheduled, at: int) -> None:
    step = Step(
        name=event.step,
        number=len(state.steps),
        activity=event.activity or event.step,
        input=event.input,
        compensate=event.compensate,
        readonly=event.readonly,
        optional=event.optional,
        park=event.park,
        timeout=event.timeout,
        retry=event.retry or DEFAULT_RETRY,
        after_pivot=state.pivot,
        issued=state.count,
        started_at=at,
    )
    state.steps[event.step] = step
    state.open_steps[event.step] = step


def _sent(state: SagaState, event: e.CommandSent, at: int) -> None:
    step = state.steps[event.step]
    identity = command_id(state.coordinator, state.id, event.step, event.action, event.attempt)
    state.commands[identity] = (event.step, event.action, event.attempt)
    if event.action == "compensate":
        _undo_sent(state, step, event, identity, at)
        return
    step.status, step.attempt, step.resends = "issued", event.attempt, 0
    step.first_sent = step.first_sent + event.shift if step.first_sent else at
    due, resend = event.due or at + step.timeout, event.resend or at + resend_delay(step.retry, 0)
    step.sent_at, step.sent_due, step.command = at, due, identity
    step.due, step.resend, step.retry_at = due, resend, NEVER
    step.input = event.edited if bytes(event.edited) else step.input
    step.error = None
    state.open_steps[event.step] = step
    state.troubled.pop(event.step, None)
    _set_alarms(state, step)


def _undo_sent(state: SagaState, step: Step, event: e.CommandSent, identity: CommandId, at: int) -> None:
    edited = bytes(event.edited) or step.undo.edited
    due = event.due or at + state.compensation_timeout
    resend = event.resend or at + resend_delay(state.compensation, 0)
    step.undo = replace(
        step.undo,
        status="issued",
        attempt=event.attempt,
        resends=0,
        first_sent=step.undo.first_sent + event.shift if step.undo.first_sent else at,
        sent_at=at,
        command=identity,
        due=due,
        resend=resend,
        retry_at=NEVER,
        edited=edited,
        body=edited or undo_body(step),
    )
    state.undos[step.name] = step
    state.troubled.pop(step.name, None)
    _set_undo_alarms(state, step)


def _resent(state: SagaState, event: e.CommandResent) -> None:
    step, shift = state.steps[event.step], event.shift
    compensating = event.action == "compensate"
    if compensating:
        undo = step.undo
        step.undo = replace(
            undo,
            first_sent=undo.first_sent + shift,
            due=undo.due + shift,
            resend=event.resend,
            resends=undo.resends + 1,
        )
    else:
        step.first_sent, step.due = step.first_sent + shift, step.due + shift
        step.resend = event.resend
        step.resends += 1
    state.set_alarm("undo_resend" if compensating else "resend", event.step, event.resend)
    if shift:
        due = step.undo.due if compensating else step.due
        state.set_alarm("undo_due" if compensating else "due", event.step, due)


def _postponed(state: SagaState, event: e.ProgressReported | e.RetryPlanned, at: int) -> None:
    step = state.steps[event.step]
    compensating = event.action == "compensate"
    command = state.command_id(step, event.action)
    if isinstance(event, e.ProgressReported):
        step.progress = event.details
        state.signs.setdefault(command, Signs()).take(event.message, event.said, at)
        if compensating:
            step.undo = replace(step.undo, due=event.due, resend=event.resend)
        else:
            step.due, step.resend = event.due, event.resend
        state.set_alarm("undo_due" if compensating else "due", event.step, event.due)
        state.set_alarm("undo_resend" if compensating else "resend", event.step, event.resend)
        return
    state.signs.pop(command, None)
    if compensating:
        step.undo = replace(
            step.undo,
            status="waiting",
            error=event.error,
            retry_at=event.at,
            resend=NEVER,
            due=step.undo.due + event.shift,
            first_sent=step.undo.first_sent + event.shift,
        )
        _set_undo_alarms(state, step)
    else:
        step.status, step.error = "waiting", event.error
        step.tainted = step.tainted or event.unknown
        step.retry_at, step.resend = event.at, NEVER
        step.due, step.first_sent = step.due + event.shift, step.first_sent + event.shift
        _set_alarms(state, step)


def _settle(state: SagaState, step: Step, status: StepStatus, at: int) -> None:
    step.status = status
    step.settled = min(step.settled, state.count)
    step.ended_at = at
    step.due = step.resend = step.retry_at = NEVER
    state.open_steps.pop(step.name, None)
    if step.command is not None:
        state.signs.pop(step.command, None)
    if state.troubled.get(step.name) in ("parked", "in_doubt"):
        del state.troubled[step.name]


def _deliver(state: SagaState, step: Step, delivery: Delivery) -> None:
    for n, waiting in enumerate(state.deliveries):
        if waiting.kind == "step" and waiting.step == step.name:
            state.deliveries[n] = delivery  # a person corrected what the blocked code has not taken yet
            return
    if not step.delivered and state.stop is None and not state.returned:
        state.deliveries.append(delivery)
    step.delivered = True


def _succeeded(state: SagaState, event: e.StepSucceeded, at: int) -> None:
    step = state.steps[event.step]
    step.output, step.error = event.output, None
    _settle(state, step, "succeeded", at)
    _deliver(state, step, Delivery("step", step=step.name, payload=event.output, settled=state.count))
    if event.late and step.delivered and step.compensate and not state.undoing and not state.pivot:
        _abandon(state, step)


def _abandon(state: SagaState, step: Step) -> None:
    """The code has moved on without this outcome, so it is undone at once; an optional step stays until a full undo."""
    if not step.optional:
        step.abandoned = True
        if step.compensate and step.undo.status not in ("done", "given_up"):
            state.abandoned[step.name] = step


def _spent(
    state: SagaState,
    event: e.StepFailed | e.StepUnknown | e.StepSkipped | e.StepParked | e.StepInDoubt | e.StepAbandoned,
    at: int,
) -> None:
    step = state.steps[event.step]
    if not isinstance(event, e.StepAbandoned):
        step.error = event.error
    match event:
        case e.StepFailed():
            _settle(state, step, "failed", at)
            _deliver(state, step, Delivery("step", step=step.name, error=event.error, settled=state.count))
            state.abandoned.pop(step.name, None)
        case e.StepUnknown():
            _settle(state, step, "unknown", at)
            error = None if step.optional else event.error
            _deliver(state, step, Delivery("step", step=step.name, error=error, settled=state.count))
            if not state.undoing:
                _abandon(state, step)
        case e.StepSkipped():
            _settle(state, step, "skipped", at)
            _deliver(state, step, Delivery("step", step=step.name, settled=state.count))
        case e.StepParked() | e.StepInDoubt():
            step.status = "parked" if isinstance(event, e.StepParked) else "in_doubt"
            step.due = step.resend = step.retry_at = NEVER
            state.open_steps[step.name] = step
            state.troubled[step.name] = step.status
        case e.StepAbandoned():
            step.delivered = True
            if step.compensate and not state.pivot and step.status != "failed":
                if step.name in state.open_steps:
                    _settle(state, step, "unknown", at)
                _abandon(state, step)
        case _:
            assert_never(event)


def _undone(state: SagaState, event: e.StepUndone | e.UndoDeferred | e.UndoGivenUp) -> None:
    step = state.steps[event.step]
    undo = replace(step.undo, due=NEVER, resend=NEVER, retry_at=NEVER)
    if undo.command is not None:
        state.signs.pop(undo.command, None)
    match event:
        case e.UndoDeferred():
            step.undo = replace(undo, status="deferred", error=event.error)
            state.troubled[step.name] = "deferred"
            return
        case e.StepUndone():
            step.undo = replace(undo, status="done")
        case e.UndoGivenUp():
            step.undo = replace(undo, status="given_up", reason=event.reason)
        case _:
            assert_never(event)
    state.undos.pop(step.name, None)
    state.troubled.pop(step.name, None)
    state.abandoned.pop(step.name, None)


def _signal(state: SagaState, event: e.ReceiveStarted | e.ReceiveCancelled | e.SignalReceived) -> None:
    match event:
        case e.ReceiveStarted():
            waiting = state.signals.get(event.signal)
            if waiting:
                state.deliveries.append(Delivery("signal", event.signal, event.n, waiting.pop(0)))
            else:
                state.receives[event.n] = event.signal
        case e.ReceiveCancelled():
            state.receives.pop(event.n, None)
        case e.SignalReceived():
            for n, name in state.receives.items():
                if name == event.signal:
                    del state.receives[n]
                    state.deliveries.append(Delivery("signal", event.signal, n, event.payload))
                    return
            state.signals.setdefault(event.signal, []).append(event.payload)
        case _:
            assert_never(event)


def steps_to_undo(state: SagaState) -> Iterator[Step]:
    """Every step that the undo covers and that is neither undone nor given up, in the order of issue."""
    if state.stop is None:
        yield from state.abandoned.values()
        return
    floor = -1
    if state.stop.compensate.startswith("to:"):
        target = state.steps.get(state.stop.compensate[3:])
        floor = target.number if target else -1
    for step in state.steps.values():
        if (
            step.compensate
            and step.status in ("succeeded", "unknown")
            and step.undo.status not in ("done", "given_up")
            and (step.abandoned or (state.stop.compensate != "none" and step.number > floor))
        ):
            yield step
