"""kill -9 between every pair of commit points, and frozen processes, on real Kafka and PostgreSQL: no cent is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.transfer.check import check, check_outcomes
from examples.transfer.contracts import BANKS
from segue.failpoints import POINTS
from tests.acceptance.crashes import Bank, bank

COORDINATOR_LIVES = (
    "batch.begun=kill@5",
    "batch.moved=kill@5",
    "batch.before_commit=kill@5",
    # What this one did not send is there for the relay of the next ones, which die of it.
    "batch.after_commit=kill@5",
    "relay.before_unpack=kill@1",
    "relay.after_load=kill@1",
    "relay.after_send=kill@1",
    "relay.before_delete=kill@1",
    "publish.after_send=kill@5",
    "publish.before_forget=kill@3",
    "publish.after_forget=kill@3",
    "wake.before_commit=kill@1",
)
WORKER_LIVES = (
    "worker.before_commit=kill@3",
    "worker.after_commit=kill@3",
    "worker.after_send=kill@3",
    "worker.before_offsets=kill@2",
)


def prove(estate: Bank) -> None:
    """Judged by the books of the banks and the rows of the coordinator alone."""
    estate.finish()
    estate.processes.stop()
    violations = check(estate.place.databases) + check_outcomes(estate.started, estate.statuses())
    assert violations == []


def test_every_failpoint_has_a_life_that_ends_there() -> None:
    lived = {plan.partition("=")[0] for plan in (*COORDINATOR_LIVES, *WORKER_LIVES)}
    assert lived == set(POINTS)


def test_coordinator_and_services_killed_between_every_pair_of_commit_points_lose_no_cent(
    tmp_path: Path, kafka_bootstrap: str, postgres_admin_url: str
) -> None:
    with bank(tmp_path, kafka_bootstrap, postgres_admin_url, seed=11) as estate:
        estate.live("coordinator", COORDINATOR_LIVES)
        for name, lives in zip(BANKS, (WORKER_LIVES, (), ()), strict=True):
            estate.live(name, lives)
        plans = {*COORDINATOR_LIVES, *WORKER_LIVES}
        estate.until(lambda: plans <= set(estate.deaths), seconds=240, what=f"every life has ended, of {sorted(plans)}")
        prove(estate)


@pytest.mark.parametrize("place", ["batch.moved=stop@8", "publish.after_send=stop@8"])
def test_a_coordinator_frozen_in_its_turn_neither_blocks_nor_corrupts_what_a_second_one_does(
    tmp_path: Path, kafka_bootstrap: str, postgres_admin_url: str, place: str
) -> None:
    with bank(tmp_path, kafka_bootstrap, postgres_admin_url, seed=12) as estate:
        estate.live("coordinator", [place])
        for name in BANKS:
            estate.live(name, [])
        estate.until(lambda: estate.is_frozen("coordinator"), seconds=60, what="the coordinator freezes itself")
        estate.live("coordinator-2", [], part="coordinator")
        before = estate.ended()
        estate.until(lambda: estate.ended() > before + 50, seconds=90, what="the second one goes on without the first")
        estate.thaw("coordinator")
        before = estate.ended()
        estate.until(lambda: estate.ended() > before + 50, seconds=90, what="both go on")
        prove(estate)
