"""All decisions of the engine: what a saga does about what happens to it. No I/O, no clock, no randomness.

`advance` folds new events into the instance's state as it decides them and returns them. The instance is a cache: if
the transaction that stores the events does not commit, it must be thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
from msgspec.structs import replace

from segue.ids import CommandId
from segue.limits import DEFAULT_LIMITS, Limits
from segue.saga import events as e
from segue.saga.definition import Converter, SagaDefinition, deadline_micros
from segue.saga.effects import Effect, Finish, Ignored, Moved, SendCommand
from segue.saga.inputs import Cancel, Input, Reply, ResolveStep, RetryStep, SignalArrived, SkipStep, Wake
from segue.saga.program import CodeFailed, Program, Request
from segue.saga.reasons import ABANDONED, STOPPED, failure_of, silence, too_long, too_many
from segue.saga.retry import DEFAULT_COMPENSATION_RETRY, Retry, may_retry, micros, resend_delay, retry_delay
from segue.saga.runs import continued
from segue.saga.state import Alarm, SagaState, apply, end_transition, steps_to_undo
from segue.saga.steps import Delivery, Step
from segue.saga.undo import UndoPlan


class Instance(msgspec.Struct):
    """A saga in memory. `program` is None where its code is not here, or is not needed any more."""

    state: SagaState
    program: Program | None = None
    #: The order of the undo, as far as it is known; None once a step has joined it.
    plan: UndoPlan | None = None


def start(
    saga_id: str,
    definition: SagaDefinition[Any, Any],
    converter: Converter,
    *,
    coordinator: str,
    input: bytes,
    now: int,
    trace: tuple[tuple[str, str], ...] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Instance, Moved]:
    """A new saga and its first transition."""
    instance = Instance(SagaState(saga_id), Program(definition, saga_id, converter, input))
    turn = _Turn(instance, now, limits)
    compensation = definition.compensation
    turn.record(
        e.Started(
            coordinator=coordinator,
            definition=definition.name,
            version=definition.version,
            input=msgspec.Raw(input),
            deadline=deadline_micros(definition, now),
            compensation=None if compensation == DEFAULT_COMPENSATION_RETRY else compensation,
            compensation_timeout=micros(definition.compensation_timeout),
            trace=trace,
        )
    )
    turn.drive()
    return instance, turn.close()


def advance(
    instance: Instance,
    happened: Input,
    now: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    held_until: int | None = None,
) -> Moved | Ignored:
    """Move the saga on by one input at `now` (microseconds since 1970, the database's clock).

    `held_until`: the breaker is open; an undo that no person asked for waits until then.
    """
    if instance.state.ended:
        return Ignored("ended", f"the saga is {instance.state.status}")
    turn = _Turn(instance, now, limits, held_until)
    if instance.state.undriven and instance.state.blocked is None and instance.program is not None:
        turn.redrive()
    match happened:
        case Reply():
            ignored = turn.reply(happened)
        case SignalArrived():
            ignored = turn.signal(happened)
        case Cancel():
            ignored = turn.cancel(happened)
        case Wake():
            ignored = turn.wake(happened.gate)
        case RetryStep():
            ignored = turn.retry_by_person(happened)
        case SkipStep():
            ignored = turn.skip(happened)
        case ResolveStep():
            ignored = turn.resolve(happened)
        case _:
            assert_never(happened)
    if ignored is not None and not turn.events:
        return ignored
    turn.drive()
    return turn.close()


def block(instance: Instance, failure: e.Failure, now: int, *, limits: Limits = DEFAULT_LIMITS) -> Moved:
    """The code does not fit the saga's history: it is told nothing more until a person retries with code that fits."""
    turn = _Turn(instance, now, limits)
    turn.drop_program()
    turn.record(e.Undriven(pending=len(instance.state.deliveries), error=failure))
    return turn.close()


def go_on(
    instance: Instance,
    definition: SagaDefinition[Any, Any] | None,
    converter: Converter,
    now: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> Moved:
    """The first transition of the next run, where `state.run_is_over`; in the transaction that ended the last one.

    `definition`: what it runs; None if that is not here. The new run may be over at once, too: call it till it is not.
    """
    turn = _Turn(instance, now, limits)
    turn.drop_program()
    event = continued(instance.state, definition)
    instance.plan = None
    turn.record(event)
    if definition is not None:
        instance.program = Program(definition, instance.state.id, converter, bytes(event.input), run=event.run)
    turn.drive()
    return turn.close()


class _Turn:
    """One transition in the making."""

    __slots__ = ("effects", "events", "held_until", "instance", "limits", "now", "state")

    def __init__(self, instance: Instance, now: int, limits: Limits, held_until: int | None = None) -> None:
        self.held_until = held_until
        self.instance = instance
        self.state = instance.state
        self.now = max(now, instance.state.updated_at)
        self.limits = limits
        self.events: list[e.AnyEvent] = []
        self.effects: list[Effect] = []

    def record(self, event: e.AnyEvent) -> None:
        apply(self.state, event, self.now)
        self.events.append(event)
        if self.instance.plan is not None and _changes_undo(self.state, event):
            self.instance.plan = None

    def close(self) -> Moved:
        self.undo()
        self.finish()
        if self.state.ended or self.state.undoing or self.state.returned:
            self.drop_program()
        end_transition(self.state, self.now)
        return Moved(events=self.events, effects=self.effects, wake_at=wake_at(self.state))

    def drop_program(self) -> None:
        if self.instance.program is not None:
            self.instance.program.close()
            self.instance.program = None

    # --- the saga's code

    def drive(self) -> None:
        """Tell the code everything it is to be told, and do what it asks for, until it rests."""
        state = self.state
        while state.deliveries and not state.undriven:
            if self.code_is_over:
                return
            program = self.instance.program
            if program is None:
                self.record(e.Undriven(pending=len(state.deliveries)))
                return
            delivery = state.deliveries.pop(0)
            if state.revision - state.first_seq + 1 >= self.limits.history_events:
                self.block(too_long(self.limits.history_events), delivery)
                return
            try:
                requests = program.deliver(delivery, self.now)
            except CodeFailed as failed:
                self.block(failed.failure, delivery)
                return
            if self.outstanding_after(requests) > self.limits.pending_commands:
                self.block(too_many(self.limits.pending_commands), delivery)
                return
            for request in requests:
                self.requested(request)

    def outstanding_after(self, requests: Sequence[Request]) -> int:
        """How many steps are open once the code has what it asks for."""
        more = sum(isinstance(request, e.StepScheduled) for request in requests)
        return more and more + len(self.state.open_steps)

    def block(self, failure: e.Failure, delivery: Delivery) -> None:
        self.state.deliveries.insert(0, delivery)
        self.record(e.Undriven(pending=len(self.state.deliveries), error=failure))
        self.drop_program()

    @property
    def code_is_over(self) -> bool:
        """Nothing that happens is for the code any more: it has returned or failed, or is being undone."""
        state = self.state
        return state.undoing or state.returned or state.parked is not None or state.held is not None

    def redrive(self) -> None:
        """The code is here (again): deadlines move by the time that they stood still."""
        self.record(e.Redriven(shift=max(0, self.now - self.state.undriven_since)))
        self.drive()

    def requested(self, request: Request) -> None:
        state = self.state
        if state.undoing or state.returned:
            return
        match request:
            case e.StepScheduled():
                self.record(request)
                self.send(state.steps[request.step], 1)
            case e.StepAbandoned():
                self.abandon(state.steps[request.step])
            case e.ProgramReturned():
                self.record(request)
                for step in list(state.open_steps.values()):
                    self.abandon(step)
            case e.RunEnded():
                self.record(replace(request, pending=len(state.deliveries)))
            case e.StopRequested():
                if state.pivot:
                    self.record(e.SagaParked(error=request.error))
                else:
                    self.fail("failure", request.error)
            case _:
                self.record(request)

    def abandon(self, step: Step) -> None:
        """The code does not wait for this step any more."""
        no_effect = step.status in ("waiting", "parked") and not step.tainted
        self.record(e.StepAbandoned(step=step.name))
        if step.name not in self.state.open_steps:
            return
        if no_effect or step.readonly:
            self.record(e.StepFailed(step=step.name, error=ABANDONED))
        elif step.optional:
            self.record(e.StepSkipped(step=step.name, error=ABANDONED))

    # --- commands

    def send(self, step: Step, attempt: int, *, person: RetryStep | None = None) -> None:
        """Send the command of `attempt`: the first or a person's with the step's whole time, a retry with what is left.

        What is left is what was left when the retry was to go out: however long nobody was there to send it.
        """
        anew = person is not None or not step.first_sent
        shift = 0 if anew else self.now - step.retry_at
        due = 0 if anew else step.due + shift
        edited, actor = (person.edited, person.actor) if person else (e.NOTHING, "")
        self.record(e.CommandSent(step=step.name, attempt=attempt, due=due, edited=edited, by=actor, shift=shift))
        self.effects.append(self.command(step, "invoke"))

    def send_undo(self, step: Step, attempt: int, *, person: RetryStep | None = None) -> None:
        undo = step.undo
        anew = person is not None or not undo.first_sent
        shift = 0 if anew else self.now - undo.retry_at
        edited, actor = (person.edited, person.actor) if person else (e.NOTHING, "")
        self.record(
            e.CommandSent(
                step=step.name,
                attempt=attempt,
                due=0 if anew else undo.due + shift,
                action="compensate",
                edited=edited,
                by=actor,
                shift=shift,
            )
        )
        self.effects.append(self.command(step, "compensate"))

    def resend(self, step: Step, action: e.Action) -> None:
        """Send the command that is out once more; its silence counts from when this was due."""
        undo = step.undo
        policy, resends, due = (
            (step.retry, step.resends, step.resend)
            if action == "invoke"
            else (self.state.compensation, undo.resends, undo.resend)
        )
        resend = self.now + resend_delay(policy, resends + 1)
        self.record(e.CommandResent(step=step.name, resend=resend, action=action, shift=self.now - due))
        self.effects.append(self.command(step, action))

    def command(self, step: Step, action: e.Action) -> SendCommand:
        if action == "invoke":
            body, activity, attempt = bytes(step.input), step.activity, step.attempt
            sent_at, deadline = step.sent_at, step.sent_due
        else:
            body, activity, attempt = step.undo.body, step.compensate, step.undo.attempt
            sent_at, deadline = step.undo.sent_at, None
        return SendCommand(
            id=self.state.command_id(step, action),
            activity=activity,
            step=step.name,
            action=action,
            attempt=attempt,
            body=body,
            sent_at=sent_at,
            deadline=deadline,
        )

    # --- replies

    def reply(self, reply: Reply) -> Ignored | None:
        known = self.state.commands.get(CommandId(reply.command_id))
        if known is None:
            return Ignored("foreign", f"this saga never sent command {reply.command_id}")
        name, action, attempt = known
        step = self.state.steps[name]
        if action == "compensate":
            return self.undo_reply(step, attempt, reply)
        if reply.outcome == "success":
            return self.success(step, reply.body)
        if attempt != step.attempt or step.status not in ("issued", "in_doubt", "unknown"):
            return Ignored("late", f"{name} is {step.status}, attempt {step.attempt}")
        if reply.outcome == "pending":
            return self.progress(step, reply)
        if step.status == "unknown":
            return self.disproved(step, reply)
        failure = failure_of(reply)
        unknown = reply.effect_unknown or step.tainted
        if step.status == "issued" and self.plan_retry(step, failure, reply):
            return None
        self.spent(step, failure, unknown)
        return None

    def success(self, step: Step, output: msgspec.Raw) -> Ignored | None:
        """A success of any attempt settles the step, also one that had been given up."""
        if step.status == "succeeded" or step.undo.status == "done":
            return Ignored("duplicate", f"{step.name} is settled")
        self.record(e.StepSucceeded(step=step.name, output=output, late=step.delivered))
        return None

    def progress(self, step: Step, reply: Reply) -> Ignored | None:
        if step.status != "issued":
            return Ignored("late", f"{step.name} is {step.status}")
        return self.alive(step, "invoke", step.timeout, step.retry, reply)

    def alive(self, step: Step, action: e.Action, timeout: int, policy: Retry, reply: Reply) -> Ignored | None:
        """A sign of life gives the step its whole time again; a copy of one, or an older one, gives nothing."""
        signs = self.state.signs.get(CommandId(reply.command_id))
        if signs is not None and signs.repeats(reply.message_id, reply.said_at, self.now):
            return Ignored("duplicate", f"{step.name} says nothing new")
        self.record(
            e.ProgressReported(
                step=step.name,
                due=self.now + timeout,
                resend=self.now + resend_delay(policy, 0),
                action=action,
                details=reply.body if action == "invoke" else e.NULL,
                message=reply.message_id,
                said=reply.said_at,
            )
        )
        return None

    def disproved(self, step: Step, reply: Reply) -> Ignored | None:
        """The outcome was unknown, now the participant proves that nothing happened: no undo, if none is under way."""
        if reply.effect_unknown or step.tainted or step.undo.status != "none":
            return Ignored("late", f"{step.name} is being undone")
        self.record(e.StepFailed(step=step.name, error=failure_of(reply)))
        return None

    def plan_retry(self, step: Step, failure: e.Failure, reply: Reply) -> bool:
        if step.delivered or self.state.undoing:
            return False
        at, shift = self.now, self.lost(step.resend)
        if reply.outcome == "retry":
            if not may_retry(step.retry, step.attempt, failure.code, step.first_sent + shift, self.now):
                return False
            at += retry_delay(step.retry, step.attempt, reply.command_id, reply.retry_after)
        elif failure.code != "expired" or step.due <= step.sent_due:
            return False  # `expired` by a deadline that has moved since: the next try carries the new one
        if at >= step.due + shift:
            return False
        self.record(e.RetryPlanned(step=step.name, at=at, error=failure, unknown=reply.effect_unknown, shift=shift))
        return True

    def lost(self, resend: int) -> int:
        """Microseconds since this re-send was due: for so long nobody was there to read answers, or to ask again."""
        return max(0, self.now - resend)

    def spent(self, step: Step, failure: e.Failure, unknown: bool) -> None:
        """No further attempt. What that means is a property of the step."""
        if unknown and not step.readonly:
            self.unknown(step, failure)
        elif step.optional:
            self.record(e.StepSkipped(step=step.name, error=failure))
        elif (step.park or self.state.pivot) and not step.delivered and not self.state.undoing:
            self.record(e.StepParked(step=step.name, error=failure))
        else:
            self.record(e.StepFailed(step=step.name, error=failure))

    def unknown(self, step: Step, failure: e.Failure) -> None:
        """Nobody knows whether it happened. Never compensate what can't be compensated, never end over it."""
        if step.readonly:
            self.record(e.StepFailed(step=step.name, error=failure))
        elif step.optional and not step.compensate:
            self.record(e.StepSkipped(step=step.name, error=failure))
        elif not step.compensate or self.state.pivot or step.park:
            self.record(e.StepInDoubt(step=step.name, error=failure))
        else:
            self.record(e.StepUnknown(step=step.name, error=failure))

    def undo_reply(self, step: Step, attempt: int, reply: Reply) -> Ignored | None:
        undo = step.undo
        if undo.status in ("done", "given_up"):
            return Ignored("duplicate", f"the undo of {step.name} is {undo.status}")
        if reply.outcome == "success":
            self.record(e.StepUndone(step=step.name))
            return None
        if attempt != undo.attempt or undo.status != "issued":
            return Ignored("late", f"the undo of {step.name} is {undo.status}, attempt {undo.attempt}")
        policy = self.state.compensation
        if reply.outcome == "pending":
            return self.alive(step, "compensate", self.state.compensation_timeout, policy, reply)
        failure = failure_of(reply)
        at = self.now + retry_delay(policy, attempt, reply.command_id, reply.retry_after)
        shift = self.lost(undo.resend)
        first = undo.first_sent + shift
        again = reply.outcome == "retry" and may_retry(policy, attempt, failure.code, first, self.now)
        if again and at < undo.due + shift:
            self.record(e.RetryPlanned(step=step.name, at=at, error=failure, action="compensate", shift=shift))
        else:
            self.record(e.UndoDeferred(step=step.name, error=failure))
        return None

    # --- stopping and undoing

    def fail(self, cause: e.StopCause, error: e.Failure) -> None:
        """Start the undo, or put it off while too many sagas of this type are being undone."""
        if self.held_until is not None and self.held_until > self.now:
            self.record(e.StopHeld(cause=cause, error=error, until=self.held_until))
        else:
            self.stop(e.StopRequested(cause=cause, error=error))

    def stop(self, event: e.StopRequested) -> None:
        """Forward execution ends. What is still in flight becomes unknown at once, if it can be undone."""
        open_steps = list(self.state.open_steps.values())
        self.record(event)
        self.drop_program()
        for step in open_steps:
            if (step.status in ("waiting", "parked") and not step.tainted) or step.readonly:
                self.record(e.StepFailed(step=step.name, error=STOPPED))
            elif step.optional and not step.compensate:
                self.record(e.StepSkipped(step=step.name, error=STOPPED))
            elif event.compensate == "none":
                self.record(e.StepSkipped(step=step.name, error=STOPPED, by=event.actor))
            elif step.compensate:
                self.record(e.StepUnknown(step=step.name, error=STOPPED))
            elif step.status in ("waiting", "parked"):
                self.record(e.StepInDoubt(step=step.name, error=STOPPED))

    def undo(self) -> None:
        """Issue every compensation whose turn has come: not before all that was issued after its step is undone."""
        state = self.state
        if state.ended or (not state.undoing and not state.abandoned):
            return
        plan = self.instance.plan = self.instance.plan or UndoPlan(steps_to_undo(state), in_order=state.undoing)
        for step in plan.next():
            self.send_undo(step, 1)

    def finish(self) -> None:
        """End the saga, unless a command is neither settled nor undone nor given up."""
        state = self.state
        if state.ended or state.open_steps or state.undos:
            return
        if state.stop is None:
            if state.returned and state.next is None and not state.abandoned:
                self.end("completed")
            return
        if any(True for _ in steps_to_undo(state)):
            return
        undone = [step.undo.status for step in state.steps.values()]
        if state.stop.cause == "cancel":
            self.end("cancelled")
        elif "done" in undone and "given_up" not in undone:
            self.end("compensated")
        else:
            self.end("failed")

    def end(self, status: e.EndStatus) -> None:
        self.record(e.Ended(status=status))
        self.effects.append(Finish(status=status))

    # --- time

    def wake(self, gate: int) -> Ignored | None:
        """Let every alarm fire whose time has come and up to which all answers have been read; one at a time."""
        state = self.state
        until = min(self.now, gate)
        while not state.undriven and not state.ended:
            alarm = state.alarm()
            if alarm is None or alarm[0] > until:
                break
            self.fire(alarm[1], alarm[2])
            self.drive()
            self.undo()
        return None if self.events else Ignored("early", "no alarm is due")

    def fire(self, what: Alarm, name: str) -> None:
        if what == "deadline":
            self.deadline()
            return
        if what == "held":
            held = self.state.held
            if held is not None:
                self.fail(held.cause, held.error)
            return
        if what == "timer":
            self.record(e.TimerFired(n=int(name)))
            return
        step = self.state.steps[name]
        match what:
            case "retry":
                self.send(step, step.attempt + 1)
            case "undo_retry":
                self.send_undo(step, step.undo.attempt + 1)
            case "resend":
                self.resend(step, "invoke")
            case "undo_resend":
                self.resend(step, "compensate")
            case "due":
                if step.status == "waiting" and step.error is not None:
                    self.spent(step, step.error, step.tainted)
                else:
                    self.unknown(step, silence(step.timeout))
            case "undo_due":
                self.record(
                    e.UndoDeferred(step=name, error=step.undo.error or silence(self.state.compensation_timeout))
                )
            case _:
                assert_never(what)

    def deadline(self) -> None:
        if self.state.pivot or (self.state.returned and self.state.next is None):
            self.record(e.DeadlineMissed())
        else:
            failure = e.Failure(code="deadline", message="the saga's deadline passed", kind="timeout")
            self.fail("deadline", failure)

    # --- signals and people

    def signal(self, signal: SignalArrived) -> Ignored | None:
        if self.state.undoing or (self.state.returned and self.state.next is None):
            return Ignored("stopping", "the saga's code has ended")
        if sum(map(len, self.state.signals.values())) >= self.limits.pending_signals:
            return Ignored("limit", f"{self.limits.pending_signals} signals wait already")
        self.record(e.SignalReceived(signal=signal.name, payload=signal.payload))
        return None

    def cancel(self, cancel: Cancel) -> Ignored | None:
        mode = cancel.compensate
        if self.state.undoing:
            return Ignored("stopping", "the saga is being stopped already")
        if mode.startswith("to:") and mode[3:] not in self.state.steps:
            return Ignored("not_allowed", f"the saga has no step {mode[3:]!r}")
        if mode not in ("all", "none") and not mode.startswith("to:"):
            return Ignored("not_allowed", f"compensate={mode!r}, allowed are all, none and to:STEP")
        if self.state.pivot and mode != "none":
            return Ignored("not_allowed", "the saga is past its pivot; only compensate=none can stop it")
        failure = e.Failure(code="cancelled", message=cancel.reason, kind="saga")
        self.stop(e.StopRequested(cause="cancel", error=failure, compensate=mode, actor=cancel.actor))
        return None

    def retry_by_person(self, retry: RetryStep) -> Ignored | None:
        state = self.state
        if state.blocked is not None and retry.step is None:
            if self.instance.program is None and not self.code_is_over:
                return Ignored("not_allowed", "no code for this saga's version is here")
            self.redrive()
            return None
        if state.held is not None and retry.step is None:
            held = state.held
            self.stop(e.StopRequested(cause=held.cause, error=held.error, actor=retry.actor))
            return None
        names = list(state.troubled) if retry.step is None else [retry.step]
        found = [state.steps[name] for name in names if name in state.troubled]
        if not found:
            return Ignored("not_allowed", "nothing is parked, in doubt, deferred or blocked" + _of(retry.step))
        for step in found:
            if step.undo.status == "deferred":
                self.instance.plan = None
                self.send_undo(step, step.undo.attempt + 1, person=retry)
            else:
                self.send(step, step.attempt + self.needs_new_try(step), person=retry)
        return None

    def needs_new_try(self, step: Step) -> bool:
        """Whether a person's retry is the next attempt, and not the same command again.

        After silence the participant is asked for the answer that it may have. One that has answered would only say the
        same again; but nothing new is tried for a saga that is being undone.
        """
        answered = step.error is not None and step.error.kind in ("spent", "rejected")
        return step.status == "parked" or (answered and not self.state.undoing)

    def skip(self, skip: SkipStep) -> Ignored | None:
        step = self.state.steps.get(skip.step)
        if step is None or skip.step not in self.state.troubled:
            return Ignored("not_allowed", f"{skip.step!r} is neither parked nor in doubt nor deferred")
        if step.undo.status == "deferred":
            self.record(e.UndoGivenUp(step=step.name, reason=skip.reason, by=skip.actor))
        else:
            failure = e.Failure(code="skipped", message=skip.reason, kind="saga")
            self.record(e.StepSkipped(step=step.name, error=failure, by=skip.actor))
        return None

    def resolve(self, resolve: ResolveStep) -> Ignored | None:
        state = self.state
        step = state.steps.get(resolve.step)
        if step is None:
            return Ignored("not_allowed", f"the saga has no step {resolve.step!r}")
        if step.undo.status in ("issued", "waiting", "deferred"):
            if resolve.outcome == "success":
                self.record(e.StepUndone(step=step.name, by=resolve.actor))
            else:
                self.record(e.UndoGivenUp(step=step.name, reason=resolve.reason, by=resolve.actor))
            return None
        untaken = any(d.kind == "step" and d.step == step.name for d in state.deliveries)
        if step.name not in state.open_steps and step.status != "unknown" and not untaken:
            return Ignored("not_allowed", f"{step.name} is {step.status}; its outcome is known")
        if resolve.outcome == "success":
            self.record(e.StepSucceeded(step=step.name, output=resolve.output, late=step.delivered, by=resolve.actor))
        else:
            failure = e.Failure(code=resolve.code, message=resolve.reason, kind="rejected")
            self.record(e.StepFailed(step=step.name, error=failure, by=resolve.actor))
        return None


def wake_at(state: SagaState) -> int | None:
    """When this saga must be looked at even if nothing happens; None if only a message or a person can move it."""
    if state.ended or state.blocked is not None:
        return None
    if state.undriven or state.run_is_over:
        return state.updated_at
    alarm = state.alarm()
    return alarm[0] if alarm else None


def _changes_undo(state: SagaState, event: e.AnyEvent) -> bool:
    """Whether after this event the undo may cover a step that it did not cover before, or the other way round."""
    match event:
        case e.StopRequested() | e.StepAbandoned():
            return True
        case e.StepSucceeded() | e.StepUnknown() | e.StepFailed():
            return state.steps[event.step].undo.status == "none"
        case _:
            return False


def _of(step: str | None) -> str:
    return f" at {step!r}" if step else ""


def commands_of(effects: Sequence[Effect]) -> list[SendCommand]:
    """The commands among the effects."""
    return [effect for effect in effects if isinstance(effect, SendCommand)]
