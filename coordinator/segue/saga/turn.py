"""A transition in the making: recording events, driving the saga's code, sending commands, stopping and undoing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from segue.ids import CommandId
from segue.limits import Limits
from segue.observe import traceback_of
from segue.saga import events as e
from segue.saga.effects import DropSignal, Effect, Finish, ForgetSign, Moved, SendCommand
from segue.saga.fold import apply, end_transition
from segue.saga.fold_steps import put_off_resend
from segue.saga.inputs import RetryStep
from segue.saga.program import CodeFailed, Program, Request, SignalUnfit
from segue.saga.reasons import ABANDONED, STOPPED, too_long, too_many
from segue.saga.retry import resend_delay
from segue.saga.signs import LastSign
from segue.saga.state import SagaState, steps_to_undo
from segue.saga.steps import NEVER, Delivery, Step
from segue.saga.undo import UndoPlan


class Instance(msgspec.Struct):
    """A saga in memory. `program` is None where its code is not here, or is not needed any more."""

    state: SagaState
    program: Program | None = None
    #: The order of the undo, of each part that has one, as far as it is known; None once a step has joined it.
    plans: list[UndoPlan] | None = None


class Turn:
    """One transition in the making: what the parts that take a reply, an alarm or a person's wish have in common."""

    __slots__ = ("effects", "events", "held_until", "instance", "limits", "now", "raised", "state")

    def __init__(self, instance: Instance, now: int, limits: Limits, held_until: int | None = None) -> None:
        self.held_until = held_until
        self.instance = instance
        self.state = instance.state
        self.now = max(now, instance.state.updated_at)
        self.limits = limits
        self.events: list[e.AnyEvent] = []
        self.effects: list[Effect] = []
        self.raised: Sequence[str] = ()

    def record(self, event: e.AnyEvent) -> None:
        signs = self.state.signs
        if signs:
            working = tuple(signs)
            apply(self.state, event, self.now)
            self.effects += [ForgetSign(command=command) for command in working if command not in self.state.signs]
        else:
            apply(self.state, event, self.now)
        self.events.append(event)
        if self.instance.plans is not None and _changes_undo(self.state, event):
            self.instance.plans = None

    def close(self) -> Moved:
        self.undo()
        self.finish()
        if self.state.waiting_since is not None:
            self.waited(self.state.waiting_since)
        if self.state.ended or self.state.undoing or self.state.returned:
            self.drop_program()
        end_transition(self.state, self.now)
        return Moved(events=self.events, effects=self.effects, wake_at=wake_at(self.state), raised=self.raised)

    def waited(self, since: int) -> None:
        """Where no person is waited for any more, the saga's deadline gets back the time in which one was."""
        state = self.state
        over = state.waits_for_person or state.undoing or state.ended
        if over or state.deadline >= NEVER or state.deadline_missed:
            return
        until = min(self.now, state.undriven_since) if state.undriven else self.now  # that time is given back anyway
        if until > since:
            self.record(e.DeadlineMoved(shift=until - since))

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
                self.return_signals()
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
            except SignalUnfit as unfit:
                self.reject(delivery, unfit.failure)
                continue
            except CodeFailed as failed:
                self.raised = traceback_of(failed.__cause__ or failed, messages=False)
                self.block(failed.failure, delivery)
                return
            if self.outstanding_after(requests) > self.limits.pending_commands:
                self.block(too_many(self.limits.pending_commands), delivery)
                return
            for request in requests:
                self.requested(request)

    def reject(self, delivery: Delivery, failure: e.Failure) -> None:
        """Give up a signal that the code could not read; the code goes on waiting."""
        signal = delivery.signal
        assert signal is not None
        self.record(e.SignalRejected(n=delivery.n, signal=delivery.step, error=failure, id=signal.id))
        self.effects.append(DropSignal(signal, "invalid_signal", failure.message))

    def return_signals(self) -> None:
        """Signals that were on their way to code that is over wait again."""
        deliveries = self.state.deliveries
        if any(delivery.signal is not None for delivery in deliveries):
            self.record(e.SignalsReturned(pending=len(deliveries)))

    def outstanding_after(self, requests: Sequence[Request]) -> int:
        """How many steps are open once the code has what it asks for."""
        more = 0
        for request in requests:
            more += isinstance(request, e.StepScheduled)
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
            case e.ReceiveCancelled():
                handed = any(d.signal is not None and d.n == request.n for d in state.deliveries)
                self.record(replace(request, returned=True) if handed else request)
            case e.RunEnded():
                self.record(replace(request, pending=len(state.deliveries)))
            case e.StopRequested():
                if state.pivot:
                    self.record(e.SagaParked(error=request.error))
                else:
                    self.fail(request.cause, request.error, request.result)
            case _:
                self.record(request)

    def abandon(self, step: Step) -> None:
        """The code does not wait for this step any more."""
        was_open = step.name in self.state.open_steps
        no_effect = step.status in ("waiting", "parked") and not step.tainted
        self.record(e.StepAbandoned(step=step.name))
        if was_open and (no_effect or step.readonly):
            self.record(e.StepFailed(step=step.name, error=ABANDONED))  # so there is nothing to undo
        elif step.optional and step.name in self.state.open_steps:
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
        self.record(
            e.CommandSent(
                step=step.name,
                attempt=attempt,
                due=due,
                edited=edited,
                by=actor,
                shift=shift,
                keyed=not step.first_sent,
            )
        )
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
        policy, resends, due, heartbeat = (
            (step.retry, step.resends, step.resend, step.heartbeat)
            if action == "invoke"
            else (self.state.compensation, undo.resends, undo.resend, 0)
        )
        resend = self.now + resend_delay(policy, resends + 1, heartbeat)
        self.record(e.CommandResent(step=step.name, resend=resend, action=action, shift=self.now - due))
        self.effects.append(self.command(step, action))

    def command(self, step: Step, action: e.Action) -> SendCommand:
        state = self.state
        key = state.key_of(step)
        if action == "invoke":
            body, activity, attempt = bytes(step.input), step.activity, step.attempt
            sent_at, deadline = step.sent_at, step.sent_due
        else:
            body, activity, attempt = step.undo.body, step.compensate, step.undo.attempt
            sent_at, deadline = step.undo.sent_at, None
        return SendCommand(
            id=state.command_id(step, action),
            activity=activity,
            step=step.name,
            action=action,
            attempt=attempt,
            body=body,
            sent_at=sent_at,
            deadline=deadline,
            key=key,
            record_key=(step.key or key) if step.keyed else state.id,  # older steps keep the key that they began with
            done=action == "compensate" and step.undo.done,
            heartbeat=step.heartbeat if action == "invoke" else 0,
        )

    # --- a step's outcome

    def succeeded(self, step: Step, output: msgspec.Raw, by: str = "") -> None:
        """The step has succeeded, and its code is told so; unless it was told something else, or the undo is under way.

        So what the code was told and what becomes of the step agree: after an error a late effect is undone, after
        "nothing" (skipped, or optional) it is only recorded, and a later undo includes it.
        """
        late = step.delivered and not (step.undo.status == "none" and self.state.untold(step))
        then: Literal["", "recorded", "undone"] = ""
        if late:
            told_error = step.abandoned or (step.status in ("failed", "unknown") and not step.optional)
            undone = told_error and step.compensate and not self.state.undoing and not self.state.pivot
            then = "undone" if undone else "recorded"
        self.record(e.StepSucceeded(step=step.name, output=output, late=late, by=by, then=then))

    def disproved(self, step: Step, failure: e.Failure, by: str = "") -> None:
        """It is known that nothing happened. Code that can do without the step is told "nothing", and not an error."""
        event = e.StepSkipped if step.optional else e.StepFailed
        self.record(event(step=step.name, error=failure, by=by))

    # --- signs of life

    def heed(self, command: CommandId, last: LastSign | None) -> None:
        """Let silence count from the last sign of life: the re-send is put off, and no event says so."""
        name, action, _ = self.state.commands[command]
        step = self.state.steps[name]
        if last is None or command != self.state.command_id(step, action):
            return
        resend = step.resend if action == "invoke" else step.undo.resend
        put_off = last.at + self.patience(step, action)
        if resend < put_off and resend < NEVER:
            put_off_resend(self.state, step, action, put_off)

    def extended(self, step: Step, action: e.Action, last: LastSign | None) -> bool:
        """Give the step the time that its last sign of life gave it: one event for all the signs before it."""
        if last is None:
            return False
        due, timeout = (
            (step.due, step.timeout) if action == "invoke" else (step.undo.due, self.state.compensation_timeout)
        )
        if last.at + timeout <= due or due >= NEVER:
            return False
        self.record(
            e.ProgressReported(
                step=step.name,
                due=last.at + timeout,
                resend=max(
                    last.at + self.patience(step, action), step.resend if action == "invoke" else step.undo.resend
                ),
                action=action,
                details=last.details if action == "invoke" else e.NULL,
                said=last.newest,
            )
        )
        return True

    def patience(self, step: Step, action: e.Action) -> int:
        """Microseconds of silence after which the command that is out is asked again."""
        if action == "invoke":
            return resend_delay(step.retry, 0, step.heartbeat)
        return resend_delay(self.state.compensation, 0)

    # --- a step is spent

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

    def unfit(self, step: Step, failure: e.Failure, unknown: bool) -> None:
        """Its time is over, and no worker that fits has got it: nothing is ever undone for a deploy."""
        if step.delivered or self.state.undoing:
            if unknown and not step.readonly:
                self.unknown(step, failure)
            else:
                self.record(e.StepFailed(step=step.name, error=failure))
        elif unknown and not step.readonly:
            self.record(e.StepInDoubt(step=step.name, error=failure))
        else:
            self.record(e.StepParked(step=step.name, error=failure))

    def unknown(self, step: Step, failure: e.Failure) -> None:
        """Nobody knows whether it happened. Never compensate what can't be compensated, never end over it."""
        if step.readonly:
            self.disproved(step, failure)
        elif step.optional and (not step.compensate or self.state.pivot):
            self.record(e.StepSkipped(step=step.name, error=failure))
        elif not step.compensate or self.state.pivot or (step.park and not step.optional):
            self.record(e.StepInDoubt(step=step.name, error=failure))
        else:
            self.record(e.StepUnknown(step=step.name, error=failure))

    # --- stopping and undoing

    def fail(self, cause: e.StopCause, error: e.Failure, result: msgspec.Raw = e.NOTHING) -> None:
        """Start the undo, or put it off while too many sagas of this type are being undone."""
        if self.held_until is not None and self.held_until > self.now:
            self.record(e.StopHeld(cause=cause, error=error, until=self.held_until, result=result))
        else:
            self.stop(e.StopRequested(cause=cause, error=error, result=result))

    def stop(self, event: e.StopRequested) -> None:
        """Forward execution ends. What is still in flight becomes unknown at once, if it can be undone."""
        open_steps = list(self.state.open_steps.values())
        self.return_signals()
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
        if self.instance.plans is None:
            self.instance.plans = self.undo_plans()
        for plan in self.instance.plans:
            for step in plan.next():
                self.send_undo(step, 1)

    def undo_plans(self) -> list[UndoPlan]:
        """The order of the undo: of all; or, while the saga goes forward, of each part that its code wants undone."""
        state = self.state
        if state.undoing:
            return [UndoPlan(steps_to_undo(state), in_order=True)]
        asked = [[state.steps[name] for name in names] for names in state.undo_requests.values()]
        of_a_part = {step.name for steps in asked for step in steps}
        loose = [step for step in state.abandoned.values() if step.name not in of_a_part]
        return [UndoPlan(loose, in_order=False), *(UndoPlan(steps, in_order=True) for steps in asked)]

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
        elif ("done" in undone or state.stop.cause == "returned") and "given_up" not in undone:
            self.end("compensated")
        else:
            self.end("failed")

    def end(self, status: e.EndStatus) -> None:
        for waiting in self.state.signals.values():
            for signal in waiting:
                message = f"the saga is {status}, and its code has not received the signal {signal.signal}"
                self.effects.append(DropSignal(signal, "unreceived", message))
        self.record(e.Ended(status=status))
        self.effects.append(Finish(status=status))


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
        case e.StopRequested() | e.StepAbandoned() | e.UndoRequested():
            return True
        case e.StepSucceeded() | e.StepUnknown() | e.StepFailed() | e.StepSkipped():
            return state.steps[event.step].undo.status == "none"
        case _:
            return False
