"""Signals: none is lost on its way to the code, none overtakes another, none that nobody can read stops its saga."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.coordinator.store import DeadLetterRow
from segue.saga import events as e
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.sagas import STAGE
from tests.simulation.shadow import SagaSeen

if TYPE_CHECKING:
    from tests.simulation.system import System


class S24Signals(Oracle):
    """Every signal is in its saga's history, in the order of the topic, or a dead letter; none is lost on the way."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (saga, message id) of those in a history; where the last one of a saga stood.
        self.came: set[tuple[str, str]] = set()
        self.stood: dict[str, tuple[int, int]] = {}
        #: What came for each saga, in that order, and how many of them its code is known to have been told.
        self.order: dict[str, list[bytes]] = {}
        self.told: dict[str, int] = {}
        #: Sagas one of whose dead letters a person has replayed: that one comes when it comes.
        self.replayed: set[str | None] = set()

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.SignalReceived():
                self._came(saga, event)
            case e.ReceiveCancelled(returned=False) if event.n not in saga.receives:
                self.fail(
                    f"{saga.id}: what wait {event.n} was handed is lost: the wait was over before the code had it"
                )
            case e.SignalRejected() if event.n not in saga.handed:
                self.fail(f"{saga.id}: wait {event.n} was handed nothing that could be no {event.signal}")
            case e.AttributeSet(name=STAGE.name) if bytes(event.value) in self.order.get(saga.id, ()):
                self._received(saga, bytes(event.value))
            case e.Undriven(error=e.Failure() as error) if "signal nudge" in error.message:
                self.fail(f"{saga.id} is blocked by what somebody sent: {error.message}")
            case _:
                pass

    def _came(self, saga: SagaSeen, event: e.SignalReceived) -> None:
        if not event.id or event.origin is None:
            self.fail(f"{saga.id}: the history does not say where a signal came from")
            return
        self.came.add((saga.id, event.id))
        self.order.setdefault(saga.id, []).append(bytes(event.payload))
        place = event.origin[:2]
        before = self.stood.get(saga.id, (place[0], -1))
        self.stood[saga.id] = place
        if before[0] == place[0] and place[1] <= before[1] and saga.id not in self._by_person():
            self.fail(f"{saga.id}: the signal at {place} comes after the one at {before}")

    def _received(self, saga: SagaSeen, payload: bytes) -> None:
        """The sagas here show what they have received as soon as they have."""
        place = self.order[saga.id].index(payload) + 1
        before = self.told.get(saga.id, 0)
        if place <= before:
            self.fail(f"{saga.id} receives signal {place} of those that came, after signal {before}")
        self.told[saga.id] = place

    def _by_person(self) -> set[str | None]:
        tables = self.all.system.database.tables
        changes = () if self.all.commit is None else self.all.commit.changes
        audits = [*tables.audits, *(entry for one in changes for entry in one.audits)]
        if any(entry.action == "replay" for entry in audits):
            self.replayed |= {letter.saga_id for letter in tables.letters.values() if letter.replays}
            self.replayed |= {tables.letters[n].saga_id for one in changes for n in one.replayed if n in tables.letters}
        return self.replayed

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            ended = [
                row.saga_id
                for row in changes.events
                if any(isinstance(event, e.Ended) for event in e.decode_events(row.payload))
            ]
            for saga_id in ended:
                self._told_of(self.all.shadow.of(saga_id), changes.dead_letters)
            for letter in changes.dead_letters:
                if any(letter.record is record for record, _ in commit.read):
                    self._refused(letter)

    def _refused(self, letter: DeadLetterRow) -> None:
        saga = self.all.shadow.sagas.get(letter.saga_id or "")
        signal = letter.reason == "saga_ended" and header(letter.record.headers, "ce_sagaaction") == "signal"
        if signal and saga is not None and saga.next is not None and saga.stop is None:
            self.fail(f"{saga.id}: {letter.record.value!r} is refused, and the next run would wait for it")

    def _told_of(self, saga: SagaSeen, letters: list[DeadLetterRow]) -> None:
        dropped = [x.record.value for x in letters if x.saga_id == saga.id and x.reason == "unreceived"]
        for payload in saga.waiting:
            if payload not in dropped:
                self.fail(f"{saga.id} ends, and nobody is told that it has not received {payload!r}")
            dropped.remove(payload)

    def end(self, system: System) -> None:
        dead = {
            (letter.saga_id, header(letter.record.headers, "ce_id"))
            for letter in system.database.tables.letters.values()
        }
        for partition in system.broker.partitions([names.requests for names in system.names]):
            for record in system.broker.log(partition).read(0, 1 << 30):
                name = header(record.headers, "ce_sagaid") or "", header(record.headers, "ce_id") or ""
                mine = header(record.headers, "ce_sagaaction") == "signal" and not system.forged(record)
                if mine and id(record) in self.all.met and name not in self.came and name not in dead:
                    self.fail(f"a signal to {name[0]} has vanished: {record.value!r}")
