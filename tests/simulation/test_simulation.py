"""The simulation itself: fixed seeds find nothing, the same seed is the same run, tapes replay, shrink and stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from segue.errors import StoreUnavailable
from segue.saga import transition
from tests.simulation import people, points
from tests.simulation.answers import AnswerProcess
from tests.simulation.calls import unanswered
from tests.simulation.database import _BLANK, BookDesk, Books
from tests.simulation.focus import FOCUSES, SHARE, focused, name_of
from tests.simulation.mutants import QUICK, Unfit, applied, hunt
from tests.simulation.oracles import Violation
from tests.simulation.patching import MUTANTS, Mutant, Patch
from tests.simulation.run import TAPES
from tests.simulation.sagas import CONTINUE, FEATURES, FOCUSED
from tests.simulation.shrink import shrink
from tests.simulation.system import TIERS, System, bounded, run
from tests.simulation.tape import Choices, Tape, load, save, size
from tests.simulation.world import CALL, CLOSE, FAULTS, NEVER, SECOND, Process, World

#: Fixed seeds of this suite, in parts that can run side by side.
PARTS = 10
PER_PART = 30


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_of_fixed_seeds_violates_an_invariant(part: int) -> None:
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        outcome = run(Tape(seed))
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}"


def test_the_empty_tape_is_one_saga_without_any_fault() -> None:
    outcome = run(Tape(0, {}))
    assert outcome.violation is None
    assert outcome.endings == {"completed": 1}
    assert outcome.faults == {}


def test_a_seed_gives_the_same_trace_every_time() -> None:
    for seed in range(20):
        first, second = run(Tape(seed)), run(Tape(seed))
        assert (first.digest, first.turns, first.faults) == (second.digest, second.turns, second.faults)


def test_a_recorded_tape_replays_to_the_same_trace() -> None:
    for seed in range(20):
        first = run(Tape(seed))
        assert run(Tape(seed, first.tape.recorded)).digest == first.digest


def test_the_trace_does_not_depend_on_the_order_of_hashes() -> None:
    program = (
        "from tests.simulation.system import run\nfrom tests.simulation.tape import Tape\n"
        "print([run(Tape(seed)).digest for seed in range(12)])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_schedules_reach_what_they_are_there_for() -> None:
    faults: Counter[str] = Counter()
    reached: Counter[str] = Counter()
    for seed in range(1000, 1150):
        outcome = run(Tape(seed))
        faults.update(outcome.faults)
        reached.update(outcome.points)
    seen = points.gathered(reached)
    for point in ("late_success", "duplicate_reply", "ambiguous_commit", "unknown", "fenced", "resent", "gate_shut"):
        assert seen[point], f"{point} was never reached"
    assert len(faults) > 25, faults


def tapes() -> list[Path]:
    return sorted(TAPES.glob("*.json"))


@pytest.mark.parametrize("path", tapes(), ids=lambda path: path.stem)
def test_a_tape_that_once_failed_fails_no_more(path: Path) -> None:
    notes, choices = load(path)
    outcome = run(Tape(0, choices), TIERS[str(notes.get("tier", "memory"))])
    assert outcome.violation is None, str(outcome.violation)


def test_tapes_fail_again_when_their_bugs_are_put_back() -> None:
    """All but two: a change of the product moves the boundaries that a tape counts, and not all on the same day."""
    blunt: list[str] = []
    for path in tapes():
        notes, choices = load(path)
        if "mutant" in notes:
            with applied(MUTANTS[str(notes["mutant"])]):
                if run(Tape(0, choices), TIERS[MUTANTS[str(notes["mutant"])].tier]).violation is None:
                    blunt.append(path.stem)
    assert len(blunt) <= 2, f'they show their bugs no more: `make mutants ARGS="--record {" ".join(blunt)}"`'


@pytest.mark.parametrize("name", FOCUSES)
def test_a_focus_is_a_choice_of_its_tape(name: str) -> None:
    first = run(Tape(3), focus=name)
    plain = run(Tape(3))
    assert first.violation is None, str(first.violation)
    assert first.plan != plain.plan
    again = run(Tape(3, first.tape.recorded))
    assert (again.plan, again.digest) == (first.plan, first.digest)


def test_every_focus_has_its_share_of_the_seeds_and_the_others_have_none() -> None:
    names = Counter(name_of(seed) for seed in range(SHARE * len(FOCUSES)))
    assert names.pop(None) == (SHARE - 1) * len(FOCUSES)
    assert names == dict.fromkeys(FOCUSES, 1)


def test_every_focus_names_events_and_pieces_that_there_are() -> None:
    plan = run(Tape(0, {})).plan
    for number in range(1, 1 + len(FOCUSES)):
        seen = focused(plan, number)
        assert set(seen.kinds) <= set(people.EVENTS)
        assert set(seen.pieces) <= {*FEATURES, *FOCUSED, "call"}
        assert seen.features <= {*FEATURES, *FOCUSED, CONTINUE}
        assert seen.enabled <= {*FAULTS, *CALL, *CLOSE}


def test_a_saga_at_its_limits_ends_when_people_cancel_it() -> None:
    stuck = 0
    for seed in range(40):
        outcome = run(Tape(seed), focus="bounds")
        assert outcome.violation is None, str(outcome.violation)
        stuck += outcome.points.get("attention.blocked", 0)
    assert stuck


def test_every_mutant_that_names_a_focus_names_one_that_there_is() -> None:
    assert {mutant.focus for mutant in MUTANTS.values()} - {None} <= set(FOCUSES)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_what_there_is_and_puts_it_back(name: str) -> None:
    patch = Patch()
    MUTANTS[name].apply(patch)
    broken = patch.broken
    patch.undo()
    assert broken
    assert not patch.broken


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_the_product_so_that_it_is_not_its_own_mistake_that_is_seen(name: str) -> None:
    mutant = MUTANTS[name]
    with applied(mutant), suppress(Exception):  # it may break the product so much that it falls over
        for seed in range(2):
            run(Tape(seed), TIERS[mutant.tier], focus=mutant.focus if seed % 2 else None)


def test_what_a_mutant_gets_wrong_itself_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(patch: Patch) -> None:
        patch(transition._Turn, "fire", lambda self, what: None)

    monkeypatch.setitem(MUTANTS, "outdated", Mutant("its function has lost a parameter", apply))
    with pytest.raises(Unfit, match="positional argument"):
        hunt("outdated", limit=50, seconds=60)


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_rule_is_seen(name: str) -> None:
    verdict = hunt(name, limit=400, seconds=120)
    assert verdict.oracle is not None, f"{verdict.schedules} schedules saw nothing: {verdict.breaks}"


def test_shrinking_leaves_what_the_violation_needs() -> None:
    with applied(MUTANTS["late_success"]):
        seed = next(seed for seed in range(1, 400) if run(Tape(seed)).violation)
        recorded = run(Tape(seed)).tape.recorded

        def fails(choices: Choices) -> bool:
            violation = run(Tape(seed, choices)).violation
            return violation is not None and violation.oracle == "S8Replies"

        assert fails(recorded)
        small = shrink(recorded, fails, budget=300)
        assert fails(small)
    assert size(small) < size(recorded) / 3


def test_a_saved_tape_is_read_back_as_it_was(tmp_path: Path) -> None:
    choices: Choices = {"plan": {3: 2, -7: 900}, "c0": {}}
    save(tmp_path / "t.json", choices, seed=4, oracle="S1")
    assert load(tmp_path / "t.json") == ({"seed": 4, "oracle": "S1"}, {"plan": {3: 2, -7: 900}})
    assert json.loads((tmp_path / "t.json").read_text())["choices"]["plan"] == {"3": 2, "-7": 900}


class Slow(Process):
    """A transaction that has a fence row for three seconds."""

    books: Books

    def boot(self) -> None:
        pass

    def turn(self) -> bool:
        with BookDesk(self.books, self).transaction() as sessions:
            sessions.rows.lock_inbox_row("pay", "s0/step")
            self.sleep(3 * SECOND)
            sessions.rows.update_inbox_row("pay", "s0/step", {"attempt": 2})
        return False

    def more(self) -> bool:
        return False

    def next_time(self) -> int:
        return NEVER


def test_an_answer_in_memory_waits_for_the_transaction_that_has_its_row() -> None:
    system = System(Tape(0, {}))
    world, books = system.world, system.books["pay"]
    books.inbox["s0/step"] = {
        **_BLANK,
        "attempt": 1,
        "invoke_id": "c-1",
        "invoke_outcome": "retry",
        "invoke_reply": b"",
    }
    handler, desk = Slow(world, "slow"), AnswerProcess(system, "desk", books)
    handler.books = books
    handler.start()
    desk.start()
    desk.expect(SECOND, "pay/invoke/s0/step", None)
    world.run(2 * SECOND)
    too_early = world.points["answered_twice"]
    world.run(9 * SECOND)
    assert (too_early, world.points["answered_twice"]) == (0, 1)
    system.close()
    handler.kill()
    assert not books.running


def test_a_loop_that_no_turn_ends_is_objected_to() -> None:
    with pytest.raises(Violation, match="L1Witness: a turn has not come to its end"), bounded(0.01):
        any(n < 0 for n in count())


class Asker(Process):
    """A process whose COMMIT is not answered."""

    def boot(self) -> None:
        self.done: list[int] = []
        self.told_at: list[int] = []

    def turn(self) -> bool:
        try:
            unanswered(self, lambda: self.done.append(self.world.now))
        except StoreUnavailable:
            self.told_at.append(self.world.now)
        return False

    def more(self) -> bool:
        return False

    def next_time(self) -> int:
        return NEVER


@pytest.mark.parametrize(("outcome", "first", "last"), [(1, 0, 0), (2, 30 * SECOND, 31 * SECOND)])
def test_a_call_without_an_answer_ends_at_its_deadline_and_may_be_done_later(
    outcome: int, first: int, last: int
) -> None:
    world = World(Tape(0, {"asker": {1: outcome}}))
    asker = Asker(world, "asker")
    asker.start()
    world.run(60 * SECOND)
    (told,), (done,) = asker.told_at, asker.done
    assert 30 * SECOND <= told < 31 * SECOND
    assert first <= done <= last
    asker.kill()


def test_a_call_without_an_answer_may_have_done_nothing() -> None:
    world = World(Tape(0, {}))
    asker = Asker(world, "asker")
    asker.start()
    world.run(60 * SECOND)
    assert len(asker.told_at) == 1
    assert asker.done == []
    asker.kill()
