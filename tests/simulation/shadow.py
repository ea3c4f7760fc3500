"""What the oracles know of each saga: folded from the committed events by a second hand, not by the engine's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from msgspec.structs import replace

from segue.ids import command_id
from segue.saga import events as e
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, DEFAULT_RETRY, Retry

NEVER = 1 << 62


@dataclass(slots=True)
class StepSeen:
    """One occurrence."""

    name: str
    compensate: str
    readonly: bool
    optional: bool
    park: bool
    issued_at: int
    status: str = "scheduled"
    undo: str = "none"
    attempt: int = 0
    undo_attempt: int = 0
    settled_at: int = NEVER
    due: int = NEVER
    undo_due: int = NEVER
    resend: int = NEVER
    undo_resend: int = NEVER
    retry_at: int = NEVER
    #: When its newest attempt has taken too long.
    attempt_due: int = NEVER
    undo_retry_at: int = NEVER
    #: The deadline that its newest command carries.
    sent_due: int = NEVER
    successes: int = 0
    abandoned: bool = False
    #: The code does not wait for it any more.
    left: bool = False
    late: bool = False
    #: A person has decided about it: what the services did is that person's business.
    by_person: bool = False
    deferred: bool = False
    tainted: bool = False
    timeout: int = 0
    retry: Retry = DEFAULT_RETRY
    #: Its own time of silence, and when it last showed that it lives, by action: beside the history.
    heartbeat: int = 0
    heard: dict[str, int] = field(default_factory=dict)
    #: World time at which that was committed.
    heard_at: dict[str, int] = field(default_factory=dict)
    #: When it is to be asked again however recently it was heard of: an answer of it may have been passed over.
    asked_at: int = NEVER

    @property
    def undoing(self) -> bool:
        """It is to be undone while the saga goes forward, and is not."""
        covered = self.abandoned and self.compensate and self.status in ("succeeded", "unknown")
        return bool(covered) and self.undo not in ("done", "given_up")

    @property
    def open(self) -> bool:
        return self.status in ("scheduled", "issued", "waiting", "parked", "in_doubt")


@dataclass(slots=True)
class SagaSeen:
    """One saga."""

    id: str
    revision: int = 0
    count: int = 0
    status: str = "running"
    started: e.Started | None = None
    steps: dict[str, StepSeen] = field(default_factory=dict)
    timers: dict[int, int] = field(default_factory=dict)
    fired: set[int] = field(default_factory=set)
    pivot: bool = False
    stop: e.StopRequested | None = None
    ended: e.Ended | None = None
    returned: bool = False
    undriven: bool = False
    #: Its code does something else than its history says, or cannot go on: only a person can move it.
    blocked: bool = False
    #: When the undo that the breaker holds is tried again; and when its newest transition was written.
    held_until: int = NEVER
    moved_at: int = 0
    deadline: int = NEVER
    #: It failed after its pivot, and waits for a person.
    parked: bool = False
    #: Signals that nobody has received, in their order; waits for one, first come first; what each wait was handed in
    #: this transition or before it. All signals have one name here.
    waiting: list[bytes] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)
    handed: dict[int, bytes] = field(default_factory=dict)
    #: The number of the run and of its first transition; set when the code has asked for the next one.
    run: int = 1
    first: int = 1
    #: Where each run so far began.
    firsts: list[int] = field(default_factory=lambda: [1])
    next: e.RunEnded | None = None
    deadline_missed: bool = False
    attributes: dict[str, bytes] = field(default_factory=dict)
    #: Steps of earlier runs.
    past: dict[str, StepSeen] = field(default_factory=dict)
    #: Retries planned so far: (step, action, attempt).
    planned: set[tuple[str, str, int]] = field(default_factory=set)

    @property
    def every_step(self) -> Iterator[StepSeen]:
        """The steps of all runs."""
        yield from self.past.values()
        yield from self.steps.values()

    @property
    def run_is_over(self) -> bool:
        """Nothing of the run is open or to be undone, and the code has asked for the next one."""
        if self.next is None or self.stop is not None or self.ended is not None or self.undriven:
            return False
        return not any(step.open or step.undoing for step in self.steps.values())

    @property
    def waits(self) -> bool:
        """A person is waited for, because of a step or because it failed after its pivot."""
        if self.stop is not None or self.ended is not None:
            return False
        troubled = (step.status in ("parked", "in_doubt") or step.undo == "deferred" for step in self.steps.values())
        return self.parked or any(troubled)

    @property
    def wake_at(self) -> int | None:
        """When somebody has to look at it even if nothing comes, by its history alone."""
        return self._wake_at(heeding=False)

    @property
    def wake_at_the_latest(self) -> int | None:
        """The same, where signs of life beside the history have put off what answers silence."""
        return self._wake_at(heeding=True)

    def resend_of(self, step: StepSeen, action: str) -> int:
        """When the participant is asked again: after silence since the last that was heard of it."""
        resend = step.resend if action == "invoke" else step.undo_resend
        heard = step.heard.get(action)
        if heard is None or resend in (step.asked_at, NEVER):
            return resend
        return max(resend, heard + self.silence_of(step, action))

    def silence_of(self, step: StepSeen, action: str) -> int:
        """How long it may be silent, in microseconds."""
        assert self.started is not None
        if action == "invoke" and step.heartbeat:
            return step.heartbeat
        undo = self.started.compensation or DEFAULT_COMPENSATION_RETRY
        return (step.retry if action == "invoke" else undo).silence // timedelta(microseconds=1)

    def _wake_at(self, *, heeding: bool) -> int | None:
        if self.ended is not None or self.blocked:
            return None
        if self.undriven or self.run_is_over:
            return self.moved_at
        moments = [self.held_until, *self.timers.values()]
        if self.stop is None and not self.deadline_missed and not self.waits and self.held_until == NEVER:
            moments.append(self.deadline)
        for step in self.steps.values():
            resend = self.resend_of(step, "invoke") if heeding else step.resend
            undo_resend = self.resend_of(step, "compensate") if heeding else step.undo_resend
            if step.status in ("issued", "waiting"):
                moments += (step.due, resend if step.status == "issued" else step.retry_at)
                moments.append(step.attempt_due if step.status == "issued" else NEVER)
            if step.undo in ("issued", "waiting"):
                moments += (step.undo_due, undo_resend if step.undo == "issued" else step.undo_retry_at)
        first = min(moments)
        return first if first < NEVER else None


class Shadow:
    """All sagas, and which command belongs to which step."""

    def __init__(self) -> None:
        self.sagas: dict[str, SagaSeen] = {}
        self.commands: dict[str, tuple[SagaSeen, StepSeen, str, int]] = {}

    def of(self, saga_id: str) -> SagaSeen:
        seen = self.sagas.get(saga_id)
        if seen is None:
            seen = self.sagas[saga_id] = SagaSeen(saga_id)
        return seen

    def whole(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> e.AnyEvent:
        """The event with the moments that it leaves out because they are the usual ones."""
        if not isinstance(event, e.CommandSent):
            return event
        assert saga.started is not None
        step = saga.steps[event.step]
        span, policy = step.timeout, step.retry
        if event.action == "compensate":
            span = saga.started.compensation_timeout
            policy = saga.started.compensation or DEFAULT_COMPENSATION_RETRY
        silence = policy.silence // timedelta(microseconds=1)
        if event.action == "invoke" and step.heartbeat:
            silence = step.heartbeat
        return replace(event, due=event.due or at + span, resend=event.resend or at + silence)

    def fold(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        """Take one event in, which happened at `at`; the oracles have looked at it before."""
        saga.count += 1
        match event:
            case e.StepScheduled():
                saga.steps[event.step] = StepSeen(
                    event.step, event.compensate, event.readonly, event.optional, event.park, saga.count
                )
                saga.steps[event.step].timeout = event.timeout
                saga.steps[event.step].retry = event.retry or DEFAULT_RETRY
                saga.steps[event.step].heartbeat = event.heartbeat
            case e.CommandSent():
                self._sent(saga, event, at)
            case e.StepSucceeded() | e.StepFailed() | e.StepUnknown() | e.StepSkipped():
                _settled(saga, event)
            case e.StepParked() | e.StepInDoubt():
                step = saga.steps[event.step]
                step.status = "parked" if isinstance(event, e.StepParked) else "in_doubt"
                step.due = NEVER
            case e.StepAbandoned():
                _abandoned(saga, saga.steps[event.step])
            case e.UndoRequested():
                for name in event.steps:
                    saga.steps[name].abandoned = True
            case e.StepUndone() | e.UndoDeferred() | e.UndoGivenUp():
                _undone(saga.steps[event.step], event)
            case e.RetryPlanned() | e.ProgressReported() | e.CommandResent():
                _postponed(saga.steps[event.step], event)
            case e.ReceiveStarted() | e.ReceiveCancelled() | e.SignalReceived() | e.SignalRejected():
                _signal(saga, event)
            case e.TimerStarted() | e.TimerFired() | e.TimerCancelled():
                _timer(saga, event)
            case _:
                _other(saga, event, at)

    def _sent(self, saga: SagaSeen, event: e.CommandSent, at: int) -> None:
        step = saga.steps[event.step]
        assert saga.started is not None
        identity = command_id(saga.started.coordinator, saga.id, event.step, event.action, event.attempt)
        self.commands[identity] = (saga, step, event.action, event.attempt)
        step.heard.pop(event.action, None)
        if event.action == "compensate":
            step.undo, step.undo_attempt = "issued", event.attempt
            step.undo_due, step.undo_resend = event.due, event.resend
            step.undo_retry_at = NEVER
            return
        step.status, step.attempt = "issued", event.attempt
        step.due, step.resend = event.due, event.resend
        step.sent_due, step.retry_at = event.due, NEVER
        allowed = step.retry.attempt_timeout
        step.attempt_due = NEVER if allowed is None else at + allowed // timedelta(microseconds=1)


def _settled(saga: SagaSeen, event: e.StepSucceeded | e.StepFailed | e.StepUnknown | e.StepSkipped) -> None:
    step = saga.steps[event.step]
    step.settled_at = min(step.settled_at, saga.count)
    step.due = NEVER
    match event:
        case e.StepSucceeded():
            told_error = step.status in ("failed", "unknown") and not step.optional
            step.status = "succeeded"
            step.successes += 1
            step.late = step.late or event.late
            step.by_person = step.by_person or bool(event.by)
            if event.late and told_error and step.compensate and not saga.pivot and saga.stop is None:
                step.abandoned = True
        case e.StepFailed():
            step.status = "failed"
            step.by_person = step.by_person or bool(event.by)
        case e.StepUnknown():
            step.status = "unknown"
            if saga.stop is None and not step.optional:
                step.abandoned = True
        case e.StepSkipped():
            step.status = "skipped"
            step.by_person = step.by_person or bool(event.by)


def _abandoned(saga: SagaSeen, step: StepSeen) -> None:
    step.left = True
    if step.compensate and not saga.pivot and step.status not in ("failed", "skipped"):
        if step.open:
            step.status = "unknown"
            step.settled_at = min(step.settled_at, saga.count)
            step.due = NEVER
        if not step.optional:
            step.abandoned = True


def _undone(step: StepSeen, event: e.StepUndone | e.UndoDeferred | e.UndoGivenUp) -> None:
    match event:
        case e.StepUndone():
            step.undo = "done"
            step.by_person = step.by_person or bool(event.by)
        case e.UndoDeferred():
            step.undo, step.deferred = "deferred", True
        case e.UndoGivenUp():
            step.undo, step.by_person = "given_up", True
    step.undo_due = NEVER


def _postponed(step: StepSeen, event: e.RetryPlanned | e.ProgressReported | e.CommandResent) -> None:
    undo = event.action == "compensate"
    match event:
        case e.RetryPlanned():
            if undo:
                step.undo, step.undo_retry_at, step.undo_resend = "waiting", event.at, NEVER
                step.undo_due += event.shift
            else:
                step.status, step.retry_at, step.resend = "waiting", event.at, NEVER
                step.attempt_due = NEVER
                step.due += event.shift
                step.tainted = step.tainted or event.unknown
        case e.ProgressReported():
            if undo:
                step.undo_due, step.undo_resend = event.due, event.resend
            else:
                step.due, step.resend = event.due, event.resend
        case e.CommandResent():
            if undo:
                step.undo_due, step.undo_resend = step.undo_due + event.shift, event.resend
            else:
                step.due, step.resend = step.due + event.shift, event.resend
                step.attempt_due = min(NEVER, step.attempt_due + event.shift)


def _other(saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
    match event:
        case e.Started():
            saga.started = event
            saga.deadline = NEVER if event.deadline is None else event.deadline
        case e.PivotPassed():
            saga.pivot = True
        case e.ProgramReturned():
            saga.returned = True
        case e.RunEnded():
            saga.next = event
            saga.timers.clear()
            saga.receives.clear()
            if event.deadline is not None:
                saga.deadline, saga.deadline_missed = event.deadline, False
        case e.Continued():
            _continued(saga, event)
        case e.AttributeSet():
            saga.attributes[event.name] = bytes(event.value)
        case e.DeadlineMissed() | e.DeadlineMoved() | e.SagaParked():
            _waited(saga, event)
        case e.StopHeld(cause="deadline"):
            saga.deadline = event.until
        case e.StopHeld():
            saga.held_until = event.until
        case e.StopRequested():
            saga.stop, saga.status, saga.undriven = event, "compensating", False
            saga.blocked, saga.held_until, saga.parked = False, NEVER, False
            saga.timers.clear()
            saga.receives.clear()
        case e.Ended():
            saga.ended, saga.status = event, event.status
        case e.Undriven():
            saga.undriven, saga.blocked = True, event.error is not None
        case e.Redriven():
            saga.undriven = saga.blocked = False
            _shifted(saga, event.shift, at, lost=event.since > 0)
        case _:
            pass


def _waited(saga: SagaSeen, event: e.DeadlineMissed | e.DeadlineMoved | e.SagaParked) -> None:
    match event:
        case e.DeadlineMissed():
            saga.deadline_missed = True
        case e.DeadlineMoved():
            saga.deadline += event.shift
        case e.SagaParked():
            saga.parked = True


def _continued(saga: SagaSeen, event: e.Continued) -> None:
    assert saga.started is not None
    saga.started = replace(saga.started, version=event.version)
    saga.run, saga.first, saga.next = event.run, saga.revision, None
    saga.firsts.append(saga.first)
    saga.past.update(saga.steps)
    saga.steps.clear()
    saga.fired.clear()
    saga.planned.clear()
    saga.pivot = False
    saga.waiting = [bytes(payload) for waiting in event.signals.values() for payload in waiting]
    saga.handed.clear()


def _timer(saga: SagaSeen, event: e.TimerStarted | e.TimerFired | e.TimerCancelled) -> None:
    if isinstance(event, e.TimerStarted):
        saga.timers[event.n] = event.at
        return
    saga.timers.pop(event.n, None)
    if isinstance(event, e.TimerFired):
        saga.fired.add(event.n)


def _signal(saga: SagaSeen, event: e.ReceiveStarted | e.ReceiveCancelled | e.SignalReceived | e.SignalRejected) -> None:
    match event:
        case e.ReceiveStarted() | e.SignalRejected():
            saga.handed.pop(event.n, None)
            if saga.waiting:
                saga.handed[event.n] = saga.waiting.pop(0)
            else:
                saga.receives.append(event.n)
        case e.ReceiveCancelled(returned=True):
            _given_back(saga, event.n)
        case e.ReceiveCancelled():
            saga.receives.remove(event.n)
        case e.SignalReceived() if saga.receives:
            saga.handed[saga.receives.pop(0)] = bytes(event.payload)
        case e.SignalReceived():
            saga.waiting.append(bytes(event.payload))


def _given_back(saga: SagaSeen, n: int) -> None:
    """What wait `n` was to get goes to the next that was to get one, and so on; what is left waits again, as first."""
    behind = list(saga.handed)[list(saga.handed).index(n) + 1 :]
    left = saga.handed.pop(n)
    for other in behind:
        saga.handed[other], left = left, saga.handed[other]
    if saga.receives:
        saga.handed[saga.receives.pop(0)] = left
    else:
        saga.waiting.insert(0, left)


def _shifted(saga: SagaSeen, shift: int, at: int, *, lost: bool) -> None:
    saga.deadline += shift
    for n in saga.timers:
        saga.timers[n] += shift
    for step in saga.steps.values():
        if step.open:
            step.due += shift
            step.attempt_due = min(NEVER, step.attempt_due + shift)
        if step.undo in ("issued", "waiting"):
            step.undo_due += shift
        if shift:
            step.retry_at, step.resend = _not_before(step.retry_at, at), _not_before(step.resend, at)
            step.undo_retry_at = _not_before(step.undo_retry_at, at)
            step.undo_resend = _not_before(step.undo_resend, at)
        if lost:
            step.asked_at = at
            step.resend = at if step.resend < NEVER else NEVER
            step.undo_resend = at if step.undo_resend < NEVER else NEVER


def _not_before(when: int, at: int) -> int:
    return when if when == NEVER else max(when, at)
