"""The transitions of one batch: takes what happened, moves the sagas, and collects what is to be written.

Lives as long as one transaction. It decides nothing about sagas (the engine does) and writes nothing (the store does).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any

import msgspec

from segue.clock import from_micros, to_micros
from segue.coordinator.cache import InstanceCache, discard
from segue.coordinator.claims import Claims
from segue.coordinator.commands import message_of
from segue.coordinator.intake import Item
from segue.coordinator.letters import announcement, letter_of, printable
from segue.coordinator.projection import row_of
from segue.coordinator.rows import heartbeat_of, sign_of
from segue.coordinator.signals import brought, record_of
from segue.coordinator.store import (
    Batch,
    Changes,
    DeadLetterState,
    EventRow,
    HeartbeatRow,
    SagaRow,
)
from segue.errors import (
    ContractError,
    Fenced,
    InputError,
    InvalidPayload,
    NotAllowed,
    NotFound,
    SegueError,
    StartConflict,
)
from segue.ids import CommandId, derive
from segue.limits import MAX_ID_LENGTH, Limits
from segue.saga import events as e
from segue.saga import inputs
from segue.saga.definition import Converter, Registry, SagaDefinition
from segue.saga.effects import DropSignal, Effect, Finish, ForgetSign, Ignored, Moved, NoteSign, SendCommand
from segue.saga.failures import Nondeterminism
from segue.saga.fold import fold
from segue.saga.replay import rebuild
from segue.saga.runs import coordinator_of
from segue.saga.signs import LastSign
from segue.saga.state import SagaState
from segue.saga.steps import Step
from segue.saga.transition import advance, block, go_on, start
from segue.saga.turn import Instance, wake_at
from segue.topics import Codecs, TopicNames
from segue.topics.broker import Record
from segue.topics.envelope import Reply

#: Events of which others hear at once.
_TOLD: frozenset[type[e.Event]] = frozenset((e.StopRequested, e.Undriven, e.StopHeld))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What does not change between batches."""

    coordinator: str
    registry: Registry
    converter: Converter
    codecs: Codecs
    names: TopicNames
    limits: Limits
    topic_ids: Mapping[str, str]


class Work:
    """One batch in the making."""

    def __init__(self, tools: Tools, batch: Batch, cache: InstanceCache, claims: Claims) -> None:
        self.tools = tools
        self.batch = batch
        self.cache = cache
        self.changes = Changes()
        #: What it tells others, once it is committed.
        self.claims = claims
        self.instances: dict[str, Instance] = {}
        #: As they stood when the batch began; rows, locked, only of those not in memory.
        self._revisions: dict[str, int] = {}
        self._rows: dict[str, SagaRow] = {}
        self._histories: dict[str, list[EventRow]] = {}
        self._before: dict[str, int] = {}
        self._wakes: dict[str, int | None] = {}
        #: What is kept of the signs of life of commands, as far as it was asked for; None: nothing.
        self._signs: dict[str, LastSign | None] = {}
        self._heartbeats: dict[str, HeartbeatRow] = {}
        self._seen: set[tuple[str, str]] = set()
        #: Sagas of others that share the database → whose they are.
        self._others: dict[str, str] = {}
        self._parked: dict[str, list[Item]] = {}

    # --- before

    @cached_property
    def now(self) -> int:
        """The database's time in microseconds; asked for late, as it comes with the answer to the first question."""
        return to_micros(self.batch.now)

    def prepare(
        self, saga_ids: Collection[str], *, rows: Sequence[SagaRow] = (), messages: Collection[tuple[str, str]] = ()
    ) -> None:
        """Load these sagas (`rows`: those loaded already), and learn which messages were seen before."""
        self._rows.update((row.id, row) for row in rows)
        known = {row.id: row.revision for row in rows}
        missing = [saga_id for saga_id in saga_ids if saga_id not in known and saga_id not in self._revisions]
        known.update(self.batch.revisions(missing) if missing else {})
        self._revisions.update(known)
        cold = [saga_id for saga_id, revision in known.items() if self.cache.revision(saga_id) != revision]
        if cold:
            unread = [saga_id for saga_id in cold if saga_id not in self._rows]
            rows_read = self.batch.lock(unread) if unread else {}
            self._rows.update(rows_read)
            # Locked only now: another may have moved them since.
            self._revisions.update((saga_id, row.revision) for saga_id, row in rows_read.items())
            self._histories.update(self.batch.history(cold))
            for saga_id in cold:
                self._leave_to_others(saga_id)
        # A saga that does not exist has seen nothing: a batch of starts need not ask.
        asked = {pair for pair in messages if pair[0] in self._revisions}
        if asked:
            self._seen |= self.batch.seen(asked)

    def _leave_to_others(self, saga_id: str) -> None:
        """Not to touch a saga that another coordinator drives; those in memory are this one's."""
        row = self._rows.get(saga_id)
        if row is None:
            return
        owner = row.coordinator
        if not owner and self._histories.get(saga_id):  # of the version before
            owner = coordinator_of(self._histories[saga_id][0].payload)
        if owner and owner != self.tools.coordinator:
            self._others[saga_id] = owner
            del self._revisions[saga_id]

    def knows(self, saga_id: str) -> bool:
        """Whether the saga exists, maybe since a moment ago, and is this coordinator's."""
        return saga_id in self._revisions or saga_id in self.instances

    def instance(self, saga_id: str, *, fresh: bool = False) -> Instance:
        """The live saga. `fresh`: with its code made anew, also if it is blocked."""
        live = self.instances.get(saga_id)
        if live is not None and not fresh:
            return live
        revision = self._revisions.get(saga_id)
        if revision is None:
            raise NotFound(f"there is no saga {saga_id!r}")
        self._before.setdefault(saga_id, revision)
        instance = None if fresh else self.cache.take(saga_id, revision)
        if instance is None:
            instance = self._rebuilt(self._row(saga_id), fresh=fresh)
        self.instances[saga_id] = instance
        return instance

    def _row(self, saga_id: str) -> SagaRow:
        """The row of a saga of which the revision was enough until now."""
        if saga_id not in self._rows:
            self._rows.update(self.batch.lock([saga_id]))
            if self._rows[saga_id].revision != self._revisions[saga_id]:
                raise Fenced(f"saga {saga_id} was moved on by another process meanwhile")
        return self._rows[saga_id]

    def _rebuilt(self, row: SagaRow, *, fresh: bool) -> Instance:
        if row.id not in self._histories:
            self._histories.update(self.batch.history([row.id]))
        history = self._histories.get(row.id, [])
        if row.id in self._wakes:  # moved by this batch, which holds what is not in the database yet
            history = [*history, *(event for event in self.changes.events if event.saga_id == row.id)]
        transitions = [(to_micros(event.at), event.payload) for event in history]
        live = self.instances.get(row.id)
        version = row.version if live is None else live.state.version
        definition = self.tools.registry.get(row.definition, version)
        # Code that has nothing more to say in this saga can't block it, however it has changed since.
        silent = row.status != "running" or row.result is not None
        if silent or (row.attention == "blocked" and not fresh):
            definition = None
        try:
            return rebuild(row.id, transitions, definition, self.tools.converter, warn=self.claims.warning(row.id))
        except Nondeterminism as difference:
            instance = rebuild(row.id, transitions, None, self.tools.converter)
            failure = e.Failure(code=difference.code, message=str(difference), kind="saga", class_name="Nondeterminism")
            if instance.state.next is not None:
                return instance  # code that has asked for a new run has nothing more to say in this one, either
            if instance.state.blocked != failure:
                moved = block(instance, failure, self.now, raised=difference, limits=self.tools.limits)
                self._moved(row.id, instance, moved)
            return instance

    # --- what happens

    def happen(
        self, saga_id: str, happened: inputs.Input, *, message_id: str | None = None, fresh: bool = False
    ) -> Moved | Ignored:
        """Move one saga by one input."""
        instance = self.instance(saga_id, fresh=fresh)
        held_until = self.claims.held_until(instance.state.definition, self.now)
        result = advance(instance, happened, self.now, limits=self.tools.limits, held_until=held_until)
        if isinstance(result, Ignored):
            self.claims.count(f"ignored.{result.reason}")
            for effect in result.effects:
                self._keep_or_forget(saga_id, effect)
        else:
            self._moved(saga_id, instance, result, message_id)
        self._go_on(saga_id, instance)
        return result

    def _go_on(self, saga_id: str, instance: Instance) -> None:
        """Begin the next run of a saga whose last one is over, and the one after that if signals wait for it."""
        tools, state = self.tools, instance.state
        while state.run_is_over:
            definition = tools.registry.successor(state.definition, state.version)
            if definition is None:
                definition = tools.registry.get(state.definition, state.version)
            self._moved(saga_id, instance, go_on(instance, definition, tools.converter, self.now, limits=tools.limits))
            self.claims.count("saga.continued")

    def wake(self, saga_id: str, gate: int, lost: int = 0) -> None:
        """Let a saga's due alarms fire. One that was woken for nothing gets its row's `wake_at` put right."""
        self.hear(self.instance(saga_id).state.signs)
        signs = {c: sign for c in self.instance(saga_id).state.signs if (sign := self._signs[c]) is not None}
        happened = inputs.Wake(gate=gate, signs=signs, lost=lost)
        if isinstance(self.happen(saga_id, happened), Ignored) and saga_id not in self._wakes:
            self._wakes[saga_id] = wake_at(self.instance(saga_id).state)

    def hear(self, commands: Collection[str]) -> None:
        """Learn what is kept of these commands' signs of life."""
        unasked = [command for command in commands if command not in self._signs]
        if unasked:
            kept = self.batch.heartbeats(unasked)
            self._signs.update((c, sign_of(kept[c]) if c in kept else None) for c in unasked)

    def hear_of(self, saga_ids: Collection[str]) -> None:
        """The same, of all that works for these sagas."""
        self.hear([command for saga_id in saga_ids for command in self.instance(saga_id).state.signs])

    def _keep_or_forget(self, saga_id: str, effect: Effect) -> None:
        if isinstance(effect, NoteSign):
            self._signs[effect.command] = effect.sign
            self._heartbeats[effect.command] = heartbeat_of(effect.command, saga_id, effect.sign)
        elif isinstance(effect, ForgetSign):
            self._signs[effect.command] = None
            self._heartbeats.pop(effect.command, None)
            self.changes.heartbeats_over.append(effect.command)

    def _last_sign(self, command: str) -> LastSign | None:
        self.hear([command])
        return self._signs[command]

    def put_early_alarms_right(self, rows: Sequence[SagaRow], until: datetime) -> list[SagaRow]:
        """Those of `rows` whose `wake_at` has come; the others are written as they are, which sets their alarm anew."""
        early = [row for row in rows if row.wake_at is not None and row.wake_at > until]
        self.changes.updated.extend(early)
        self.changes.expected.update({row.id: row.revision for row in early})
        return [row for row in rows if row.wake_at is None or row.wake_at <= until]

    def put_off(self, row: SagaRow, by: timedelta) -> None:
        """Look at a saga again so much later; nothing else of its row changes."""
        self.changes.updated.append(msgspec.structs.replace(row, wake_at=self.batch.now + by))
        self.changes.expected[row.id] = row.revision

    def item(self, item: Item) -> None:
        """Apply one record of the replies or requests topic."""
        if item.saga_id in self._others:
            self._anothers(item, self._others[item.saga_id])
        elif item.error is not None:
            self._unreadable(item, item.error)
        elif item.reply is not None:
            self._reply(item)
        elif item.request is not None and not self._seen_before(item):
            match item.request.action:
                case "start":
                    self._start(item)
                case "signal":
                    self._signal(item)
                case "cancel":
                    self._cancel(item)

    def _anothers(self, item: Item, owner: str) -> None:
        """Ids are unique per database: whoever has one first keeps it."""
        message = f"{item.saga_id} is a saga of coordinator {owner!r}, which shares this database: ids are unique in it"
        if item.request is not None and item.request.action == "start":
            self._dead(item, "start_conflict", StartConflict(message))
        else:
            self._dead(item, "another_coordinator", NotFound(message))

    def _seen_before(self, item: Item) -> bool:
        assert item.request is not None
        key = (item.request.saga_id, item.request.id)
        if key not in self._seen:
            return False
        if item.request.action == "signal" and not self._same_signal(*key, item.request.name, item.body):
            error = NotAllowed(f"signal {item.request.id} came before with another value or under another name")
            self._dead(item, "signal_conflict", error)
        else:
            self.claims.count("ignored.duplicate")
        return True

    def _same_signal(self, saga_id: str, message_id: str, name: str, body: bytes) -> bool:
        """Whether a message that was seen before says what it said then; what is forgotten by now, it did."""
        fresh = (x for x in self.changes.events if x.saga_id == saga_id and x.message_id == message_id)
        row = next(fresh, None) or self.batch.message(saga_id, message_id)
        return row is None or brought(row, name, body)

    def _reply(self, item: Item) -> None:
        reply = item.reply
        assert reply is not None
        if not item.saga_id or not self.knows(item.saga_id):
            self._dead(item, "unknown_saga", NotFound(f"no saga {item.saga_id!r} waits for command {reply.command_id}"))
            return
        works = reply.command_id in self.instance(item.saga_id).state.signs
        result = self.happen(
            item.saga_id,
            inputs.Reply(
                command_id=CommandId(reply.command_id),
                outcome=reply.outcome,
                body=msgspec.Raw(item.body),
                error=(reply.error or "")[:255],
                effect_unknown=reply.effect == "unknown",
                retry_after=reply.retry_after,
                rejected=reply.rejected,
                message_id=reply.id if len(reply.id) <= MAX_ID_LENGTH else derive(reply.id),
                said_at=_said_at(reply),
                last_sign=self._last_sign(reply.command_id) if works else None,
                mismatch=reply.mismatch,
            ),
        )
        if not isinstance(result, Ignored):
            state = self.instance(item.saga_id).state
            # What moved it may be that somebody drives it again, and not the reply of an earlier run.
            driven = bool(result.events) and isinstance(result.events[0], e.Redriven)
            if driven and CommandId(reply.command_id) not in state.commands:
                self._after_its_run(item, reply)
            return
        if result.reason == "foreign":
            self._after_its_run(item, reply)
        elif result.reason == "ended" and reply.outcome == "success":
            self._after_the_end(item, reply, self.instance(item.saga_id).state)

    def _after_its_run(self, item: Item, reply: Reply) -> None:
        """The present run never sent the command. The one before may have; older ones are not looked through."""
        assert item.saga_id is not None
        state = self.instance(item.saga_id).state
        if not state.previous_seq:
            self._dead(item, "foreign_reply", NotFound(f"saga {state.id} never sent command {reply.command_id}"))
            return
        rows = self.batch.earlier(state.id, state.previous_seq, state.first_seq)
        of_it = range(state.previous_seq, state.first_seq)
        rows += [row for row in self.changes.events if row.saga_id == state.id and row.seq in of_it]
        if not rows or rows[0].seq != state.previous_seq:
            rows = []  # its beginning was deleted, and the rest says nothing without it
        before = fold(state.id, ((to_micros(row.at), row.payload) for row in rows))
        if CommandId(reply.command_id) not in before.commands:
            self._dead(item, "foreign_reply", NotFound(f"saga {state.id} never sent command {reply.command_id}"))
        elif reply.outcome == "success":
            self._after_the_end(item, reply, before)
        else:
            self.claims.count("ignored.late")

    def _after_the_end(self, item: Item, reply: Reply, state: SagaState) -> None:
        """A success that nobody will undo any more must not go unseen; a duplicate of a settled one may."""
        known = state.commands.get(CommandId(reply.command_id))
        if known is None:
            self._after_its_run(item, reply)
            return
        step = state.steps[known[0]]
        if known[1] == "invoke" and step.status != "succeeded" and step.undo.status != "done":
            end = state.status if state.ended else "continued"
            self._dead(item, "late_success", NotFound(f"{step.name} had an effect after the saga was {end}"))

    def _start(self, item: Item) -> None:
        request = item.request
        assert request is not None
        if self.knows(request.saga_id):
            self._attach(item)
            return
        definition = self.tools.registry.newest(request.name)
        if definition is None:
            self._keep_start(item, request.name)
            return
        try:
            value = self.tools.converter.from_bytes(item.body, definition.input_type)
            data = self.tools.converter.to_bytes(value, definition.input_type)
        except (InputError, ContractError) as error:
            self._dead(item, "invalid_input", error)
            return
        instance, moved = start(
            request.saga_id,
            definition,
            self.tools.converter,
            coordinator=self.tools.coordinator,
            input=data,
            asked="" if data == item.body else _digest(item.body),
            now=self.now,
            trace=request.passed_on,
            limits=self.tools.limits,
        )
        self.instances[request.saga_id] = instance
        self._before[request.saga_id] = 0
        self._moved(request.saga_id, instance, moved, request.id)
        self.claims.count("saga.started")

    def _keep_start(self, item: Item, name: str) -> None:
        """In a rolling deploy another coordinator may have the type, or will soon: whoever has it folds the start."""
        error = NotFound(f"no saga is called {name!r} here; it starts once a coordinator has it")
        possible = len(name) <= MAX_ID_LENGTH
        state: DeadLetterState = "parked" if possible else "dead"
        self._dead(item, "unknown_saga_type", error, state=state, definition=name if possible else None)

    def _attach(self, item: Item) -> None:
        """The same id again: the same saga, if type and input are the same, else refused."""
        request = item.request
        assert request is not None
        state = self.instance(request.saga_id).state
        definition = self.tools.registry.get(state.definition, state.version)
        same = request.name == state.definition and self._same_input(item, state, definition)
        if same:
            self.claims.count("ignored.duplicate")
            return
        what = "type" if request.name != state.definition else "input"
        message = f"saga {request.saga_id} runs already as {state.definition!r} with another {what}"
        self._dead(item, "start_conflict", StartConflict(message))

    def _same_input(self, item: Item, state: SagaState, definition: SagaDefinition[Any, Any] | None) -> bool:
        if state.asked and state.asked == _digest(item.body):
            return True
        kind = Any if definition is None else definition.input_type
        return self.tools.converter.same(item.body, bytes(state.started_with), kind)

    def _signal(self, item: Item) -> None:
        request = item.request
        assert request is not None
        if not self.knows(request.saga_id):
            self._early(item)
            return
        record = item.record
        signal = inputs.SignalArrived(
            name=request.name,
            payload=msgspec.Raw(item.body),
            id=request.id,
            sender=printable(request.source)[:MAX_ID_LENGTH],
            origin=(record.partition, record.offset, record.timestamp_ms),
        )
        result = self.happen(request.saga_id, signal, message_id=request.id)
        if isinstance(result, Ignored):
            reason, detail = ("too_many_signals" if result.reason == "limit" else "saga_ended"), result.detail
        elif not any(isinstance(event, e.SignalReceived) for event in result.events):
            # It was driven again before the signal was its turn, and that was the end of it.
            reason, detail = "saga_ended", "the saga's code has ended"
        else:
            return
        lead = "" if reason == "too_many_signals" else f"nobody receives the signal {request.name} any more: "
        self._dead(item, reason, NotAllowed(lead + detail))

    def _early(self, item: Item) -> None:
        """There is no such saga yet: the record waits for it."""
        assert item.request is not None
        self._dead(item, "early", NotFound(f"no saga {item.request.saga_id!r} yet"), state="parked")
        self._parked.setdefault(item.request.saga_id, []).append(item)

    def take_early(self, saga_id: str) -> list[Item]:
        """What this batch has parked for a saga that is there by now; it is parked no more."""
        items = self._parked.pop(saga_id, [])
        parked = {id(item.record) for item in items}
        letters = self.changes.dead_letters
        letters[:] = [x for x in letters if x.state != "parked" or id(x.record) not in parked]
        return items

    def _cancel(self, item: Item) -> None:
        request = item.request
        assert request is not None
        if not self.knows(request.saga_id):
            self._early(item)
            return
        cancel = inputs.Cancel(
            compensate=request.name, reason=(request.reason or "")[:1024], actor=request.source[:255]
        )
        result = self.happen(request.saga_id, cancel, message_id=request.id)
        if isinstance(result, Ignored) and result.reason == "not_allowed":
            self._dead(item, "not_allowed", NotFound(result.detail))

    # --- what can't be applied

    def _unreadable(self, item: Item, error: InputError) -> None:
        """Dead, unless it answers a command of a live saga: then it is kept as `received` and blocks that saga."""
        saga_id = item.saga_id
        if item.command_id is None or saga_id is None or not self.knows(saga_id):
            self._dead(item, error.code, error)
            return
        instance = self.instance(saga_id)
        known = instance.state.commands.get(CommandId(item.command_id))
        if known is None or instance.state.ended or _is_settled(instance.state.steps[known[0]], known[1]):
            self._dead(item, error.code, error)
            return
        self.keep(item.record, saga_id, error.code, error)

    def keep(self, record: Record, saga_id: str, reason: str, error: SegueError) -> None:
        """Store a record as `received` and block its saga with the reason."""
        self.letter(record, reason, error, saga_id=saga_id, state="received")
        where = f"{record.topic}[{record.partition}]@{record.offset}"
        message = printable(f"{where}: {error}")[:1000]
        self.block(saga_id, e.Failure(code=reason, message=message, kind="saga", class_name=type(error).__name__))

    def block(self, saga_id: str, failure: e.Failure) -> None:
        """Stop a saga's code until a person retries; what is already so stays so."""
        instance = self.instance(saga_id)
        if not instance.state.ended and instance.state.blocked is None:
            self._moved(saga_id, instance, block(instance, failure, self.now, limits=self.tools.limits))

    def _dead(
        self,
        item: Item,
        reason: str,
        error: SegueError,
        *,
        state: DeadLetterState = "dead",
        definition: str | None = None,
    ) -> None:
        self.letter(item.record, reason, error, saga_id=item.saga_id, state=state, definition=definition)

    def letter(
        self,
        record: Record,
        reason: str,
        error: BaseException,
        *,
        saga_id: str | None,
        state: DeadLetterState = "dead",
        topic_id: str | None = None,
        definition: str | None = None,
    ) -> None:
        """Write a record to the dead letters, byte for byte; of one that is too large a reference."""
        row = letter_of(
            record,
            reason,
            error,
            at=from_micros(self.now),
            coordinator=self.tools.coordinator,
            topic_id=self.tools.topic_ids.get(record.topic, "") if topic_id is None else topic_id,
            saga_id=saga_id,
            state=state,
            definition=definition,
        )
        self.changes.dead_letters.append(row)
        self.claims.count(f"dead_letter.{state}")
        self.claims.event(
            "record.dead",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
            error=error,
        )

    # --- what is written

    def _moved(self, saga_id: str, instance: Instance, moved: Moved, message_id: str | None = None) -> None:
        state = instance.state
        self._wakes[saga_id] = moved.wake_at
        self.changes.events.append(
            EventRow(
                saga_id=saga_id,
                seq=state.revision,
                type=type(moved.events[0]).__name__,
                at=from_micros(state.updated_at),
                payload=e.encode_events(moved.events),
                message_id=message_id,
            )
        )
        if message_id is not None:
            self._seen.add((saga_id, message_id))
        for effect in moved.effects:
            if isinstance(effect, SendCommand):
                self.changes.messages.append(message_of(effect, state, self.tools.names, self.tools.codecs))
                if effect.action == "compensate":
                    self.claims.count("compensations")
            elif isinstance(effect, Finish):
                self.claims.count(f"saga.{effect.status}")
            elif isinstance(effect, DropSignal):
                self._drop(saga_id, effect)
            else:
                self._keep_or_forget(saga_id, effect)
        for event in moved.events:
            if event.__class__ not in _TOLD:
                continue
            if isinstance(event, e.StopRequested) and event.cause != "cancel" and not event.actor and state.steps:
                self.claims.undo_begun(state.definition, self.now)
            elif isinstance(event, e.Undriven) and event.error is not None:
                self.claims.blocked(state, event.error, moved.raised)
            elif isinstance(event, e.StopHeld):
                self.claims.event("breaker.alert", saga=saga_id, definition=state.definition)

    def _drop(self, saga_id: str, dropped: DropSignal) -> None:
        """A signal that its saga will never be told: a dead letter, one for each time."""
        record = record_of(dropped, self.tools.names.requests, saga_id)
        if record is None:
            self.claims.event("signal.failed", saga=saga_id, signal=dropped.signal.signal, why=dropped.reason)
            return
        unique = derive("dropped signal", saga_id, str(self.instances[saga_id].state.revision), dropped.signal.id)
        self.letter(record, dropped.reason, InvalidPayload(dropped.message), saga_id=saga_id, topic_id=unique)

    def finish(self) -> Changes:
        """Everything that this batch writes; call once, at the end."""
        if self.changes.events:
            self.claims.count("transitions", len(self.changes.events))
        for saga_id, when in self._wakes.items():
            row = row_of(self.instances[saga_id].state, when)
            before = self._before[saga_id]
            if before == 0:
                self.changes.started.append(row)
            else:
                self.changes.updated.append(row)
                self.changes.expected[saga_id] = before
        self.changes.heartbeats.extend(self._heartbeats.values())
        for letter in self.changes.dead_letters:
            if letter.state == "dead":
                self.changes.messages.append(announcement(letter, self.tools.names))
        return self.changes

    def confirm(self) -> None:
        """The transaction is known to be committed: the instances may be cached, and others may hear of it."""
        self.claims.confirm()
        for saga_id, instance in self.instances.items():
            self.cache.put(saga_id, instance)

    def abort(self) -> None:
        """The transaction failed or may have: nothing in memory is to be trusted."""
        for instance in self.instances.values():
            discard(instance)
        self.instances.clear()


def _is_settled(step: Step, action: e.Action) -> bool:
    """Whether an answer to a command of this step can say nothing new."""
    return step.status == "succeeded" if action == "invoke" else step.undo.status in ("done", "given_up")


def _digest(body: bytes) -> str:
    return sha256(body).hexdigest()[:32]


def _said_at(reply: Reply) -> int:
    """When a sign of life was given, as far as it says so; of other replies nobody wants to know."""
    return 0 if reply.outcome != "pending" or reply.time is None else max(0, to_micros(reply.time))
