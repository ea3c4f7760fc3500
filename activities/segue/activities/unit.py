"""The unit of work: fence, handler and reply of commands in one transaction.

    together one transaction for a group of joined commands: lock all fence rows, run the handlers one after the other,
             store all replies. If anything fails all is rolled back, and the commands are run one by one; so it is with
             a rejection, and after it each runs behind a savepoint for a while. If only a race for rows was lost, they
             go into later, at last shorter groups.
    joined   one transaction: lock the fence row, decide, run the handler behind a savepoint, store the reply. If the
             handler fails all is rolled back, and a second transaction stores the `retry`.
    manual   a transaction that notes the beginning, the handler in none, a transaction that stores the reply.

Killed at any line, it can be run again: before the commit nothing happened, after it the stored reply answers. Nothing
is sent that is not in a committed row, and it is sent again with every delivery until Kafka has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from segue.activities.handlers import Prepared
from segue.activities.outcome import Answered, Rejected, RetryLater, answer_of_exception, failure, rejection, unfit
from segue.activities.pace import Pace
from segue.activities.participant import Handled, InvalidOutput, Participant
from segue.activities.runner import Desk, Sessions
from segue.activities.shared import SharedSession
from segue.failpoints import hit
from segue.observe import Observer
from segue.outbox.faults import is_transient_database
from segue.outbox.group import StagedRows
from segue.outbox.inbox import lock_fence, store_begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """How often one transaction is tried in this process while its database is in trouble, and with which pauses."""

    most: int
    #: Seconds of the first pause, each is twice the one before; and of the longest.
    first: float
    longest: float


#: Before a transient database error becomes a `retry` or stops the partition.
LOCAL_TRIES = Tries(most=3, first=0.02, longest=0.5)
#: For the answer of a handler that can't be run again for nothing: about a minute.
ANSWER_TRIES = Tries(most=20, first=0.05, longest=5.0)

#: What became of a command: handled, failed, or None: it was not begun.
Result: TypeAlias = Handled | BaseException | None


class _HandlerRaised(Exception):
    """The handler, or the commit of what it wrote, failed; everything was rolled back."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


class _GroupBroken(Exception):
    """A command of a group can't be answered without rolling all of them back."""

    def __init__(self, activity: str, cause: BaseException) -> None:
        super().__init__()
        self.activity = activity
        self.cause = cause


class UnitOfWork:
    """Runs commands of one consumer; used by many threads at once."""

    def __init__(self, participant: Participant, pace: Pace, observer: Observer) -> None:
        self._participant = participant
        self._pace = pace
        self._observer = observer
        self._staged = StagedRows

    def run(self, desk: Desk, batch: Sequence[Prepared]) -> Sequence[Result]:
        """Handle the commands, in this order; what became of each. Once one failed, the rest is not begun."""
        if len(batch) > 1:
            try:
                return self._together(desk, batch)
            except BaseException as error:  # noqa: BLE001 - said of each command by itself, below
                activities = {prepared.command.activity for prepared in batch}
                if is_transient_database(_cause(error)):
                    # Another group is made of them; where nothing but the database is at fault, a shorter one.
                    self._pace.collided(activities)
                    return [None] * len(batch)
                for activity in {error.activity} if isinstance(error, _GroupBroken) else activities:
                    self._pace.broke(activity)
        return self._one_by_one(desk, batch)

    def _one_by_one(self, desk: Desk, batch: Sequence[Prepared]) -> Sequence[Result]:
        results: list[Result] = []
        for prepared in batch:
            try:
                results.append(self._run_one(desk, prepared, alone=len(batch) == 1))
            except BaseException as error:  # noqa: BLE001 - handed to the loop, which decides; nothing kills the process
                results.append(error)
                break
        return results + [None] * (len(batch) - len(results))

    def _run_one(self, desk: Desk, prepared: Prepared, *, alone: bool) -> Handled:
        registration = prepared.registration
        step = self._joined if registration is None or registration.transaction != "manual" else self._manual
        try:
            handled = _persistently(desk, LOCAL_TRIES, lambda: step(desk, prepared))
            if alone:
                self._pace.went_well(prepared.command.activity)
            return handled
        except _HandlerRaised as raised:
            self._pace.broke(prepared.command.activity)
            self._log(prepared, raised.cause)
            return self._answer_exception(desk, prepared, raised.cause)

    # --- together

    def _together(self, desk: Desk, batch: Sequence[Prepared]) -> Sequence[Result]:
        part, results = self._participant, list[Result]()
        deadline = self._pace.deadline()
        with desk.transaction() as sessions:
            rows = self._staged(sessions.rows, part.consumer, [prepared.command.key for prepared in batch])
            shared = sessions.shared()
            for prepared in batch:
                if results and self._pace.is_over(deadline):
                    break
                results.append(self._member(desk, sessions, shared, rows, prepared))
            rows.write()
            hit("worker.before_commit")
        for activity in {prepared.command.activity for prepared in batch[: len(results)]}:
            self._pace.went_well(activity)
        return results + [None] * (len(batch) - len(results))

    def _member(
        self, desk: Desk, sessions: Sessions, shared: SharedSession, rows: StagedRows, prepared: Prepared
    ) -> Handled:
        part, activity = self._participant, prepared.command.activity
        fence, now, handled = part.decided(rows, prepared)
        if handled is not None:
            return handled
        wary = self._pace.wants_savepoint(activity)
        try:
            with self._pace.measured(activity), shared.lent(activity, wary=wary):
                answered = part.called(desk, sessions, prepared, fence)
        except Rejected as rejected:
            self._pace.rejected(activity)
            if not wary:
                # Even if it has written nothing through SQLAlchemy: it may have had the driver's own cursor, and
                # nothing but a savepoint takes that back.
                raise _GroupBroken(activity, rejected) from rejected
            answered = rejection(rejected)
        except BaseException as error:
            raise _GroupBroken(activity, error) from error
        return part.answer(rows, prepared.command, fence, answered, now)

    # --- joined

    def _joined(self, desk: Desk, prepared: Prepared) -> Handled:
        started = False
        try:
            with desk.transaction() as sessions:
                rows = sessions.rows
                fence, now, handled = self._participant.decided(rows, prepared)
                if handled is not None:
                    return handled
                started = True
                with self._pace.measured(prepared.command.activity):
                    answered = self._participant.behind_savepoint(desk, sessions, prepared, fence)
                handled = self._participant.answer(rows, prepared.command, fence, answered, now)
                hit("worker.before_commit")
            return handled
        except BaseException as error:
            if started:
                raise _HandlerRaised(error) from error
            raise

    # --- manual

    def _manual(self, desk: Desk, prepared: Prepared) -> Handled:
        with desk.transaction() as sessions:
            fence, _, handled = self._participant.decided(sessions.rows, prepared)
            if handled is not None:
                return handled
            fence = store_begun(sessions.rows, self._participant.consumer, prepared.command, fence)
        try:
            with desk.bare() as sessions:
                answered = self._participant.called(desk, sessions, prepared, fence)
        except Rejected as rejected:
            answered = rejection(rejected)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is answered
            # No local retry: outside of a transaction nothing proves that the handler did not do it.
            self._log(prepared, error)
            answered = answer_of_exception(error, effect="unknown")
        return self._answer_later(desk, prepared, answered, fence.lease)

    def _answer_later(self, desk: Desk, prepared: Prepared, answered: Answered, lease: int) -> Handled:
        return _persistently(desk, ANSWER_TRIES, lambda: self._answer_once(desk, prepared, answered, lease))

    def _answer_once(self, desk: Desk, prepared: Prepared, answered: Answered, lease: int) -> Handled:
        command = prepared.command
        with desk.transaction() as sessions:
            fence, now = lock_fence(sessions.rows, self._participant.consumer, command.key)
            known = fence.answer_to(command)
            faster = known.command_id == command.id and known.reply is not None
            if faster or command.attempt < known.attempt:
                # A second delivery was faster, or a later attempt has the row by now and keeps it.
                _, _, handled = self._participant.decided(sessions.rows, prepared)
                return handled or Handled()
            if fence.lease != lease:
                return Handled()  # another delivery has taken over, and answers
            if command.action == "invoke" and fence.compensate.attempt > 0:
                answered = failure("compensated", "it was compensated while it was being done", effect="unknown")
            return self._participant.answer(sessions.rows, command, fence, answered, now, begun=True)

    def _answer_exception(self, desk: Desk, prepared: Prepared, error: BaseException) -> Handled:
        """The second transaction: the first one, with all that the handler did, is rolled back."""
        with desk.transaction() as sessions:
            fence, now, handled = self._participant.decided(sessions.rows, prepared)
            if handled is not None:
                return handled
            if isinstance(error, InvalidOutput):
                answered = unfit(error.code, str(error))  # a bug of the handler, which another build mends
            else:
                answered = answer_of_exception(error, effect="none")
            return self._participant.answer(sessions.rows, prepared.command, fence, answered, now)

    def _log(self, prepared: Prepared, error: BaseException) -> None:
        if isinstance(error, RetryLater):
            return  # it knows what it does
        command = prepared.command
        self._observer.event(
            "worker.handler.failed",
            activity=command.activity,
            saga=command.saga_id,
            step=command.step,
            attempt=command.attempt,
            error=type(error).__name__,
            traceback=error,
        )


def _persistently(desk: Desk, tries: Tries, transaction: Callable[[], Handled]) -> Handled:
    """The transaction, tried again while it is the database that fails; raises what the last try raised."""
    # Nearly every command is handled at the first try, and to set up the retries costs 15 µs.
    try:
        return transaction()
    except Exception as error:
        if not _is_transient(error):
            raise
    desk.sleep(tries.first)
    retrying = Retrying(
        stop=stop_after_attempt(tries.most - 1),
        wait=wait_exponential(multiplier=2 * tries.first, max=tries.longest),
        retry=retry_if_exception(_is_transient),
        sleep=desk.sleep,
        reraise=True,
    )
    return retrying(transaction)


def _is_transient(error: BaseException) -> bool:
    return is_transient_database(_cause(error))


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, (_HandlerRaised, _GroupBroken)) else error
