"""Answers that are committed and never written: known by their transaction and its row, on both tiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segue.activities.outcome import Answered, reply_to
from segue.activities.runner import Done
from segue.clock import EPOCH
from segue.outbox.inbox import StoredOutcome, lock_fence, store_answer
from segue.outbox.message import Message
from segue.topics.envelope import Command
from tests.simulation.staging import WatchedRows
from tests.simulation.system import TIERS, System
from tests.simulation.tape import Tape
from tests.simulation.world import NEVER, SECOND, Process

KEY = "s0/pay.do"


def attempt(number: int) -> Command:
    return Command(
        id=f"00000000-0000-0000-0000-00000000000{number}", activity="pay.do", saga_id="s0", saga_type="free",
        step="pay.do", action="invoke", attempt=number, key=KEY, reply_to="sim.replies", source="/sim",
    )  # fmt: skip


def answered(rows: Any, number: int, outcome: StoredOutcome = "success") -> Message:
    """Stage the answer to an attempt."""
    command = attempt(number)
    reply = reply_to(command, Answered(outcome="success", body=b"1"), source="/pay", now=EPOCH)
    lock_fence(rows, "pay", KEY)
    store_answer(rows, "pay", command, outcome, reply, tombstone=False)
    return reply


class Group(Process):
    """One transaction of a worker, for `work` on its staged rows."""

    work: Callable[[WatchedRows], None]
    system: System
    ended: Done[None] | None = None

    def boot(self) -> None:
        pass

    def turn(self) -> bool:
        runner, _ = self.system.books["pay"].open(self)

        def job(desk: Any) -> None:
            with desk.transaction() as sessions:
                self.work(WatchedRows(sessions.rows, "pay", [KEY]))

        def done(how: Done[None]) -> None:
            self.ended = how

        runner.submit(job, done)
        return False

    def more(self) -> bool:
        return False

    def next_time(self) -> int:
        return NEVER


def run_group(tier: str, work: Callable[[WatchedRows, set[str]], None]) -> tuple[set[str], BaseException | None]:
    """(the replies of which the oracles know that they are committed, what the transaction raised)."""
    system = System(Tape(0, {}), TIERS[tier])
    group = Group(system.world, "pay-group")
    group.system, group.work = system, lambda rows: work(rows, system.oracles.replies)
    group.start()
    system.world.run(SECOND)
    known = set(system.oracles.replies)
    system.close()
    assert group.ended is not None
    return known, group.ended.error


@pytest.mark.parametrize("tier", TIERS)
def test_both_answers_of_a_group_are_known_once_it_is_committed_and_not_before(tier: str) -> None:
    replies: list[str] = []

    def work(rows: WatchedRows, known: set[str]) -> None:
        replies.extend(answered(rows, number).id for number in (1, 2))
        rows.write()
        assert not known

    known, error = run_group(tier, work)
    assert error is None
    assert len(set(replies)) == 2
    assert known == set(replies)


@pytest.mark.parametrize("tier", TIERS)
def test_no_answer_of_a_group_that_was_rolled_back_is_known(tier: str) -> None:
    def work(rows: WatchedRows, known: set[str]) -> None:
        for number in (1, 2):
            answered(rows, number)
        rows.write()
        raise RuntimeError("broken")

    known, error = run_group(tier, work)
    assert isinstance(error, RuntimeError)
    assert known == set()


@pytest.mark.parametrize("tier", TIERS)
def test_a_success_that_the_row_does_not_confirm_is_not_known(tier: str) -> None:
    last: list[str] = []

    def work(rows: WatchedRows, known: set[str]) -> None:
        answered(rows, 1)
        last.append(answered(rows, 2, "failure").id)
        rows.write()

    known, error = run_group(tier, work)
    assert error is None
    assert known == set(last)


@pytest.mark.parametrize("tier", TIERS)
def test_of_two_answers_to_one_attempt_only_the_last_is_known(tier: str) -> None:
    replies: list[str] = []

    def work(rows: WatchedRows, known: set[str]) -> None:
        first = reply_to(attempt(1), Answered(outcome="retry", body=b"1"), source="/pay", now=EPOCH)
        lock_fence(rows, "pay", KEY)
        store_answer(rows, "pay", attempt(1), "retry", first, tombstone=False)
        replies.extend(answered(rows, number).id for number in (1, 2))
        rows.write()

    known, error = run_group(tier, work)
    assert error is None
    assert known == set(replies)
