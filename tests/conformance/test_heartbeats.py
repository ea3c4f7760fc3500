"""Signs of life beside the histories, on every adapter."""

from __future__ import annotations

from datetime import timedelta

import pytest

from segue.coordinator.store import Changes, HeartbeatRow, Store
from segue.errors import Fenced, RejectedWrite
from tests.conformance.store_kit import COORDINATOR, P0, T0, Bench, heartbeat, move, offset, saga, write


def kept(store: Store, *commands: str) -> dict[str, HeartbeatRow]:
    with store.batch() as batch:
        return batch.heartbeats(commands)


def test_the_newest_sign_of_each_command_is_kept(bench: Bench) -> None:
    store = bench.store()
    write(store, heartbeats=[heartbeat("c-1"), heartbeat("c-2")])
    newer = heartbeat("c-1", at=T0 + timedelta(seconds=1), newest=2**51, known=b"{}", details=b"7", count=4)
    write(store, heartbeats=[newer])
    assert kept(store, "c-1", "c-2", "c-3") == {"c-1": newer, "c-2": heartbeat("c-2")}


def test_what_is_settled_is_kept_no_longer(bench: Bench) -> None:
    store = bench.store()
    write(store, heartbeats=[heartbeat("c-1"), heartbeat("c-2")])
    write(store, heartbeats_over=["c-1", "c-7"])
    assert set(kept(store, "c-1", "c-2")) == {"c-2"}
    assert kept(store) == {}


def test_a_sign_of_life_stands_and_falls_with_the_offset_of_its_message(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5)})

    def stale() -> None:
        with store.batch() as batch:
            batch.fence(COORDINATOR, [move(4, 6)])
            batch.write(Changes(heartbeats=[heartbeat()]))

    with pytest.raises(Fenced):
        stale()
    assert kept(store, "c-1") == {}


def test_a_sign_that_no_database_can_hold_is_refused(bench: Bench) -> None:
    with pytest.raises(RejectedWrite):
        write(bench.store(), heartbeats=[heartbeat("c\x00")])


def test_old_signs_of_sagas_that_are_over_are_swept(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("live"), saga("over", status="completed", ended_at=T0)])
    rows = [heartbeat("c-1", saga_id="live"), heartbeat("c-2", saga_id="over"), heartbeat("c-3", saga_id="gone")]
    young = heartbeat("c-4", saga_id="over", at=T0 + timedelta(days=2))
    write(store, heartbeats=[*rows, young])
    store.sweep(COORDINATOR, T0 + timedelta(days=1), 10)
    assert set(kept(store, "c-1", "c-2", "c-3", "c-4")) == {"c-1", "c-4"}
