"""What the simulation found in the product, put back."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace as with_fields

import segue.coordinator.gate as gate
import segue.coordinator.memory as memory
import segue.coordinator.service as service
import segue.coordinator.work as work
import segue.saga.steps as steps
import segue.saga.transition as transition
from segue.errors import Fenced
from segue.saga.effects import Ignored
from tests.simulation import database
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("found: a compensation sent again carries an output that was not known at first")
def found_undo_body(patch: Patch) -> None:
    old = Turn.command

    def command(self: Any, step: Any, action: str) -> Any:
        sent = old(self, step, action)
        return sent if action == "invoke" else with_fields(sent, body=step.undo.edited or steps.undo_body(step))

    patch(Turn, "command", command)


@mutant("found: the relay tells the age of a row by its own clock", focus="clocks")
def found_relay_clock(patch: Patch) -> None:
    old = database.SimOutboxStore.load

    def load(self: Any, owner: str, limit: int, *, memory_first_for: Any, excluded: Any) -> Any:
        behind = self._process.world.db_now() - self._process.now()
        age = None if memory_first_for is None else memory_first_for + behind
        return old(self, owner, limit, memory_first_for=age, excluded=excluded)

    patch(database.SimOutboxStore, "load", load)


@mutant("found: a saga whose code has ended is held up by code that has changed since", focus="bugs")
def found_ended_blocked(patch: Patch) -> None:
    old = work.Work._rebuilt

    def rebuilt(self: Any, row: Any, *, fresh: bool) -> Any:
        return old(self, with_fields(row, status="running", result=None), fresh=fresh)

    patch(work.Work, "_rebuilt", rebuilt)


@mutant("found: a blocked undo can't be released", focus="bugs")
def found_blocked_undo(patch: Patch) -> None:
    old = Turn.retry_by_person

    def retry(self: Any, retry: Any) -> Any:
        if self.state.blocked is not None and retry.step is None and self.instance.program is None:
            return Ignored("not_allowed", "no code for this saga's version is here")
        return old(self, retry)

    patch(Turn, "retry_by_person", retry)


@mutant("found: a call abandoned just before the pivot is never undone, and its saga never ends", focus="abandoned")
def found_abandoned_at_pivot(patch: Patch) -> None:
    old = Turn.undo

    def undo(self: Any) -> None:
        if not self.state.pivot or self.state.undoing:
            old(self)

    patch(Turn, "undo", undo)


@mutant(
    "found: a frozen coordinator resets an offset that others have moved since the topic was created again",
    focus="recreated",
)
def found_late_reset(patch: Patch) -> None:
    def reset_offset(self: Any, coordinator: str, partition: Any, known: Any, offset: Any, audit: Any) -> None:
        self.tables.offsets[(coordinator, partition)] = offset
        self.tables.audits.append(audit)

    patch(memory.MemoryStore, "reset_offset", reset_offset)


@mutant(
    "found: a parked signal that was applied meanwhile is tried again for ever, and fences everybody", focus="signals"
)
def found_parked_twice(patch: Patch) -> None:
    old = work.Work.prepare

    def prepare(self: Any, saga_ids: Any, *, rows: Any = (), messages: Any = ()) -> None:
        old(self, saga_ids, rows=rows, messages=() if isinstance(messages, tuple) else messages)

    patch(work.Work, "prepare", prepare)


@mutant("found: of a saga in memory nobody asks whether a message was seen before", focus="signals")
def found_seen_in_memory(patch: Patch) -> None:
    old = work.Work.prepare

    def prepare(self: Any, saga_ids: Any, *, rows: Any = (), messages: Any = ()) -> None:
        asked = {pair for pair in messages if self.cache.revision(pair[0]) is None}
        old(self, saga_ids, rows=rows, messages=asked)

    patch(work.Work, "prepare", prepare)


@mutant("found: a saga that is blocked while the breaker holds its undo can't be released", focus="bugs")
def found_blocked_hold(patch: Patch) -> None:
    old = Turn.retry_by_person

    def retry(self: Any, retry: Any) -> Any:
        held = self.state.held is not None or self.state.parked is not None
        if self.state.blocked is not None and held and retry.step is None and self.instance.program is None:
            return Ignored("not_allowed", "no code for this saga's version is here")
        return old(self, retry)

    patch(Turn, "retry_by_person", retry)


@mutant("found: a bad record is taken for the one that was cut off where it stands now", focus="cut_off")
def found_place_taken(patch: Patch) -> None:
    old = memory.MemoryBatch._bury

    def bury(self: Any, letter: Any) -> None:
        place = (letter.record.source, letter.record.offset, letter.topic_id)
        kept = self._tables.letters.values()
        if not any((one.record.source, one.record.offset, one.topic_id) == place for one in kept):
            old(self, letter)

    patch(memory.MemoryBatch, "_bury", bury)


@mutant(
    "found: the gate remembers a time to which all was read, and the database's clock steps back behind it",
    focus="steps_back",
)
def found_remembered_gate(patch: Patch) -> None:
    old = gate.DrainGate.open_to

    def open_to(self: Any, wanted: Any) -> bool:
        tables = vars(self._store._database)  # for all coordinators, as it was in a column
        opened = old(self, wanted)
        if opened:
            tables["remembered"] = max(self._opened.at, tables.get("remembered", self._opened.at))
        return opened or ("remembered" in tables and tables["remembered"] >= wanted)

    patch(gate.DrainGate, "open_to", open_to)
    patch(gate.DrainGate, "until", lambda self, now: min(vars(self._store._database)["remembered"], now))


@mutant(
    "found: a topic that is created again and outgrows its reader's offset is read on from the middle",
    focus="recreated",
)
def found_unnoticed_topic(patch: Patch) -> None:
    patch(service.Coordinator, "_find_new_topics", lambda self: None)


@mutant(
    "found: a frozen coordinator moves the offset of a topic that is created again as if it were the old one's",
    focus="recreated",
)
def found_old_topic(patch: Patch) -> None:
    def check_fence(self: Any, coordinator: str, move: Any) -> None:
        if self._tables.offsets[(coordinator, move.partition)].next != move.start:
            raise Fenced("it stands elsewhere")

    patch(memory.MemoryBatch, "_check_fence", check_fence)
