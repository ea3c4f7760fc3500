"""The contract of the store port, sentence by sentence, on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.coordinator.store import BEGINNING, LOOK_AHEAD, Changes, DeadLetterState, Look, OffsetNote
from segue.errors import Fenced
from segue.topics.broker import Partition
from tests.conformance.store_kit import (
    COORDINATOR,
    ORDER,
    P0,
    P1,
    T0,
    Bench,
    audit,
    due,
    event,
    full_saga,
    history,
    letter,
    letters,
    locked,
    message,
    move,
    offset,
    request,
    saga,
    sent,
    write,
)

SECOND = timedelta(seconds=1)


# The clock


def test_now_is_the_database_clock_aware_and_the_same_all_through_a_batch(bench: Bench) -> None:
    store = bench.store()
    before = store.now()
    with store.batch() as batch:
        first = batch.now
        batch.lock(["o-1"])
        assert batch.now == first
    assert before.utcoffset() == timedelta(0)
    assert before - SECOND <= first <= store.now() + SECOND


# The fence


def test_a_fence_moves_the_stored_offsets(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5), P1: offset(0)})

    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(0, 7, P1), move(5, 9, P0)])

    assert {partition: stored.next for partition, stored in store.offsets(COORDINATOR).items()} == {P0: 9, P1: 7}


@pytest.mark.parametrize("start", [4, 6])
def test_a_fence_that_does_not_stand_where_the_move_begins_is_fenced_and_moves_nothing(
    bench: Bench, start: int
) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5), P1: offset(0)})

    with pytest.raises(Fenced), store.batch() as batch:
        batch.fence(COORDINATOR, [move(0, 7, P1), move(start, 9, P0)])

    assert {partition: stored.next for partition, stored in store.offsets(COORDINATOR).items()} == {P0: 5, P1: 0}


def test_a_fence_of_a_topic_that_was_created_again_is_fenced_though_the_offset_is_the_same(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5), P1: offset(0, topic_id="")})
    store.reset_offset(COORDINATOR, P0, offset(5), offset(0, topic_id="t-2"), audit("reset"))

    with pytest.raises(Fenced), store.batch() as batch:
        batch.fence(COORDINATOR, [move(0, 1)])
    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(0, 3, topic_id="t-2"), move(0, 1, P1, topic_id="")])

    assert store.offsets(COORDINATOR) == {P0: offset(3, topic_id="t-2"), P1: offset(1, topic_id="")}


def test_a_partition_that_was_never_seeded_is_fenced(bench: Bench) -> None:
    store = bench.store()
    with pytest.raises(Fenced), store.batch() as batch:
        batch.fence(COORDINATOR, [move(0, 1)])


def test_coordinators_of_other_names_have_offsets_of_their_own(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5)})
    store.seed_offsets("other", {P0: offset(1)})

    with store.batch() as batch:
        batch.fence("other", [move(1, 2)])

    assert store.offsets(COORDINATOR)[P0].next == 5
    assert store.offsets("other")[P0].next == 2
    assert store.offsets("nobody") == {}


def test_when_something_was_stepped_over_is_kept_with_the_offset_and_stays_as_it_moves(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5), P1: offset(0)})

    with store.batch() as batch:
        batch.write(Changes(notes=[OffsetNote(coordinator=COORDINATOR, partition=P1, stands_at=0, problem="damaged")]))
    assert store.offsets(COORDINATOR)[P1] == offset(0)
    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(5, 6)])
        batch.write(Changes(notes=[OffsetNote(coordinator=COORDINATOR, partition=P0)]))
        now = batch.now
    with store.batch() as batch:
        batch.fence(COORDINATOR, [move(6, 9)])

    stored = store.offsets(COORDINATOR)
    assert (stored[P0].next, stored[P0].skipped_at) == (9, now)
    assert stored[P1] == offset(0)


# Sagas


def test_a_started_saga_is_read_back_column_by_column(bench: Bench) -> None:
    store = bench.store()
    rows = [saga("o-2"), full_saga("o-1")]

    write(store, started=rows)

    assert locked(store, "o-1", "o-2", "o-3") == {row.id: row for row in rows}


def test_an_updated_saga_is_read_back_column_by_column_also_where_columns_become_empty(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1"), full_saga("o-2")])
    updated = {"o-1": full_saga("o-1", revision=2), "o-2": saga("o-2", revision=2)}

    write(store, updated=list(updated.values()))

    begun = {"o-1": saga("o-1"), "o-2": full_saga("o-2")}
    assert locked(store, "o-1", "o-2") == {
        name: msgspec.structs.replace(row, **{column: getattr(begun[name], column) for column in BEGINNING})
        for name, row in updated.items()
    }


def test_what_a_saga_began_with_stays_whatever_an_update_says(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])
    other: dict[str, Any] = {
        name: getattr(full_saga(started_at=T0 + SECOND, definition="other", coordinator="other"), name)
        for name in BEGINNING[1:]
    }
    assert all(getattr(saga(), name) != value for name, value in other.items())

    write(store, updated=[saga("o-1", revision=2, step="pay", **other)])

    assert locked(store, "o-1") == {"o-1": saga("o-1", revision=2, step="pay")}


def test_revisions_are_told_of_the_sagas_that_are_there(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("b"), saga("a"), saga("c", revision=7)])

    with store.batch() as batch:
        assert batch.revisions(["c", "x", "a", "b"]) == {"a": 1, "b": 1, "c": 7}
        assert batch.revisions([]) == {}


def test_locking_loads_in_the_order_of_ids_and_leaves_out_what_is_not_there(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga(name) for name in ("b", "a", "c")])

    assert list(locked(store, "c", "x", "a", "b")) == ["a", "b", "c"]
    assert locked(store) == {}


@pytest.mark.parametrize("revision", [1, 3])
def test_a_revision_that_is_not_the_expected_one_is_fenced(bench: Bench, revision: int) -> None:
    store = bench.store()
    write(store, started=[saga("o-1"), saga("o-2")])

    with pytest.raises(Fenced):
        write(store, updated=[saga("o-1", revision=2), saga("o-2", revision=revision)], events=[event(seq=2)])

    assert {row.revision for row in locked(store, "o-1", "o-2").values()} == {1}
    assert history(store) == []


def test_the_expected_revision_may_be_any_if_it_is_named(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1"), saga("o-2")])

    write(store, updated=[saga("o-1", revision=4), saga("o-2", step="x")], expected={"o-1": 1, "o-2": 1})

    assert {row.id: (row.revision, row.step) for row in locked(store, "o-1", "o-2").values()} == {
        "o-1": (4, None),
        "o-2": (1, "x"),
    }


def test_an_update_of_a_saga_that_is_not_there_is_fenced(bench: Bench) -> None:
    with pytest.raises(Fenced):
        write(bench.store(), updated=[saga(revision=2)])


def test_a_start_whose_id_is_taken_is_fenced_and_changes_nothing(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1")])

    with pytest.raises(Fenced):
        write(store, started=[saga("o-0"), saga("o-1", step="other")], messages=[message("m")])

    assert locked(store, "o-0", "o-1") == {"o-1": saga("o-1")}


# History


def test_the_history_comes_by_saga_in_order_and_is_empty_for_unknown_sagas(bench: Bench) -> None:
    store = bench.store()
    mine = [event("o-1", seq, message_id) for seq, message_id in ((1, "m-1"), (2, None), (3, None))]
    write(store, started=[saga("o-1"), saga("o-2")], events=[mine[2], event("o-2"), mine[0], mine[1]][1:3])
    write(store, events=mine[1:])

    with store.batch() as batch:
        found = batch.history(["o-1", "o-2", "o-3"])

    assert found == {"o-1": mine, "o-2": [event("o-2")], "o-3": []}


def test_the_history_is_that_of_the_present_run_and_the_one_before_is_there(bench: Bench) -> None:
    store = bench.store()
    rows = [event("o-1", seq) for seq in range(1, 8)]
    write(store, started=[saga("o-1", revision=7, run=3, first_seq=6), saga("o-2")], events=[*rows, event("o-2")])

    with store.batch() as batch:
        assert batch.history(["o-1", "o-2"]) == {"o-1": rows[5:], "o-2": [event("o-2")]}
        assert batch.earlier("o-1", 3, 6) == rows[2:5]
        assert batch.earlier("o-3", 1, 6) == []

    write(store, updated=[saga("o-1", revision=8, run=4, first_seq=8)], events=[event("o-1", 8)])

    with store.batch() as batch:
        assert batch.history(["o-1"]) == {"o-1": [event("o-1", 8)]}
        assert (batch.lock(["o-1"])["o-1"].run, batch.lock(["o-1"])["o-1"].first_seq) == (4, 8)


def test_an_event_whose_number_is_taken_is_fenced(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga()], events=[event(seq=1)])
    with pytest.raises(Fenced):
        write(store, events=[event(seq=1)])


def test_a_message_that_is_in_the_history_is_seen_and_can_not_be_written_twice(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1"), saga("o-2")], events=[event("o-1", 1, "m-1"), event("o-2", 1, "m-2")])

    with store.batch() as batch:
        pairs = [("o-1", "m-1"), ("o-1", "m-2"), ("o-2", "m-2"), ("o-3", "m-1")]
        assert batch.seen(pairs) == {("o-1", "m-1"), ("o-2", "m-2")}
        assert batch.seen([]) == set()
    with pytest.raises(Fenced):
        write(store, events=[event("o-1", 2, "m-1")])
    write(store, events=[event("o-1", 2, "m-2")])


def test_the_transition_of_a_message_is_found_by_it(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga("o-1"), saga("o-2")], events=[event("o-1", 1, "m-1"), event("o-2", 1, "m-1")])
    with store.batch() as batch:
        found = batch.message("o-2", "m-1")
        assert found is not None
        assert (found.saga_id, found.seq, found.payload) == ("o-2", 1, event("o-2", 1, "m-1").payload)
        assert batch.message("o-2", "m-2") is None


def test_what_is_parked_for_sagas_is_found_in_the_order_in_which_it_came(bench: Bench) -> None:
    store = bench.store()
    places: list[tuple[str, DeadLetterState]] = [
        ("o-1", "parked"),
        ("o-2", "parked"),
        ("o-1", "dead"),
        ("o-3", "parked"),
        ("o-1", "parked"),
    ]
    write(store, dead_letters=[letter(n, state=state, saga_id=saga_id) for n, (saga_id, state) in enumerate(places)])
    with store.batch() as batch:
        assert [found.record.offset for found in batch.parked(COORDINATOR, ["o-1", "o-2", "o-9"])] == [0, 1, 4]
        assert batch.parked(COORDINATOR, []) == []


# The outbox


def test_messages_that_their_writer_has_not_published_in_time_are_a_relays(bench: Bench) -> None:
    store = bench.store()
    messages = [message("a", "o-1", deadline=T0 + SECOND, saga_attempt=2), message("b", "ö-2"), message("c", None)]
    write(store, messages=messages)
    last = message("d", "o-1", payload=None, headers={}, created_at=T0 - SECOND)
    write(store, messages=[last])

    assert bench.taken_over(timedelta(hours=1)) == []
    found = bench.taken_over()

    assert found == sent(*messages, last)
    assert bench.taken_over() == found


def test_of_what_is_published_nothing_is_left_and_what_comes_too_late_deletes_nothing(bench: Bench) -> None:
    store = bench.store()
    first, second = write(store, messages=[message("a")]), write(store, messages=[message("b")])
    assert 0 < first < second
    store.forget_published([first, 999])
    assert bench.taken_over() == sent(message("b"))

    assert write(store, published=[second]) == 0
    assert bench.taken_over() == sent(message("b"))
    store.forget_published([])
    third = write(store, messages=[message("c")])
    assert third > second
    write(store, published=[third])
    assert bench.taken_over() == sent(message("b"))


def test_a_message_that_waits_already_is_the_same_message(bench: Bench) -> None:
    store = bench.store()
    write(store, messages=[message("a")])
    assert bench.taken_over() == sent(message("a"))
    write(store, messages=[message("a"), message("b")])
    write(store, messages=[message("b"), message("a")])

    assert bench.taken_over() == sent(message("a"), message("b"))


# What is due


def test_what_is_due_comes_oldest_first_up_to_the_limit_for_known_versions_only(bench: Bench) -> None:
    store = bench.store()
    write(
        store,
        started=[
            saga("late", wake_at=T0),
            saga("older", wake_at=T0 - SECOND),
            saga("same", wake_at=T0 - SECOND),
            saga("future", wake_at=T0 + timedelta(microseconds=1)),
            saga("never"),
            saga("other-version", wake_at=T0 - SECOND, version=2),
            saga("other-type", wake_at=T0 - SECOND, definition="refund"),
        ],
    )

    with store.batch() as batch:
        assert due(batch) == ["older", "same", "late"]
        assert due(batch, limit=2) == ["older", "same"]
        assert due(batch, limit=0) == []
        assert batch.due(COORDINATOR, T0, 10, []) == []
        assert [row.id for row in batch.due(COORDINATOR, T0, 10, [("order", 2), ("refund", 1)])] == [
            "other-type",
            "other-version",
        ]


def test_no_saga_is_due_while_its_message_is_unpublished(bench: Bench) -> None:
    store = bench.store()
    sagas = [saga(name, wake_at=T0) for name in ("o-1", "o-2", "o-3")]
    waiting = write(store, started=sagas, messages=[message("c", None), message("a", "o-1"), message("b", "o-1")])

    with store.batch() as batch:
        assert due(batch) == ["o-2", "o-3"]
    store.forget_published([waiting])
    with store.batch() as batch:
        assert due(batch) == ["o-1", "o-2", "o-3"]

    late = write(store, messages=[message("d", "o-2")])
    bench.taken_over()
    store.forget_published([late])
    with store.batch() as batch:
        assert due(batch) == ["o-1", "o-3"]


def test_an_alarm_stays_while_it_is_early_enough_and_is_put_right_when_it_has_rung(bench: Bench) -> None:
    store = bench.store()
    soon, later = store.now() + LOOK_AHEAD / 4, store.now() + LOOK_AHEAD / 2
    write(store, started=[saga(wake_at=soon)])
    write(store, updated=[saga(wake_at=later, revision=2)])
    assert store.look(COORDINATOR, ORDER).alarm_at == soon
    with store.batch() as batch:
        assert [row.wake_at for row in batch.due(COORDINATOR, soon, 10, ORDER)] == [later]

    write(store, updated=[saga(wake_at=soon - SECOND, revision=3)])
    assert store.look(COORDINATOR, ORDER).alarm_at == soon - SECOND
    write(store, updated=[saga(wake_at=T0 - SECOND, revision=4)])
    write(store, updated=[saga(wake_at=later, revision=5)])
    assert store.look(COORDINATOR, ORDER).alarm_at == later
    write(store, updated=[saga(revision=6)])
    assert store.look(COORDINATOR, ORDER).alarm_at is None
    write(store, updated=[saga(wake_at=later, revision=7)])
    assert store.look(COORDINATOR, ORDER).alarm_at == later


def test_a_look_goes_no_further_than_it_needs(bench: Bench) -> None:
    store = bench.store()
    write(store, started=[saga(wake_at=store.now() + 2 * LOOK_AHEAD)])
    assert store.look(COORDINATOR, ORDER).alarm_at is None
    near = store.now() + LOOK_AHEAD / 2
    write(store, updated=[saga(wake_at=near, revision=2)])
    assert store.look(COORDINATOR, ORDER).alarm_at == near


def test_the_next_wake_is_the_earliest_of_the_known_versions(bench: Bench) -> None:
    store = bench.store()
    assert store.look(COORDINATOR, ORDER).alarm_at is None
    write(
        store,
        started=[saga("a", wake_at=T0), saga("b", wake_at=T0 - SECOND), saga("c", wake_at=T0 - 2 * SECOND, version=2)],
    )

    assert store.look(COORDINATOR, ORDER).alarm_at == T0 - SECOND
    assert store.look(COORDINATOR, []).alarm_at is None


def test_a_look_tells_what_there_is_to_do(bench: Bench) -> None:
    store = bench.store()
    before = store.now()
    look = store.look(COORDINATOR, ORDER)
    assert before <= look.now <= store.now()
    assert look == Look(now=look.now, alarm_at=None, requests=False, parked=False)

    later = store.now() + timedelta(hours=1)
    store.ask([request(not_before=later)])
    write(store, dead_letters=[letter(state="parked", saga_id="o-1")])
    look = store.look(COORDINATOR, [*ORDER, ("100 % 'safe'", 1)])
    assert (look.requests, look.parked) == (False, False)

    store.ask([request(not_before=T0)])
    write(store, started=[saga()])
    look = store.look(COORDINATOR, ORDER)
    assert (look.requests, look.parked) == (True, True)
    assert not store.look(COORDINATOR, ORDER, parked=False).parked


def test_versions_are_live_while_one_of_their_sagas_has_not_ended(bench: Bench) -> None:
    store = bench.store()
    assert store.live_versions(COORDINATOR) == []
    ended = [
        saga(name, status=name, version=9, ended_at=T0) for name in ("completed", "compensated", "failed", "cancelled")
    ]
    live = [saga("a", version=2), saga("b", version=2), saga("c", status="compensating"), saga("d", definition="a")]
    write(store, started=[*ended, *live])

    assert store.live_versions(COORDINATOR) == [("a", 1), ("order", 1), ("order", 2)]


# Operator requests and audit


def test_requests_are_queued_with_ids_and_come_when_their_time_has_come_oldest_first(bench: Bench) -> None:
    store = bench.store()
    late = request(not_before=T0 + timedelta(days=36_500))
    ids = store.ask([request(), request(saga_id=None, dead_letter_id=7, kind="replay", not_before=T0 - SECOND), late])
    assert len(set(ids)) == 3
    assert store.ask([]) == []

    with store.batch() as batch:
        found = [replace(one, database_role=None) for one in batch.requests(COORDINATOR, 10)]
        assert found == [
            request(id=ids[1], saga_id=None, dead_letter_id=7, kind="replay", not_before=T0 - SECOND),
            request(id=ids[0]),
        ]
        assert [row.id for row in batch.requests(COORDINATOR, 1)] == [ids[1]]
        batch.write(Changes(requests_done=[ids[1]], audits=[audit()]))
    with store.batch() as batch:
        assert [row.id for row in batch.requests(COORDINATOR, 10)] == [ids[0]]


def test_a_request_that_another_has_dealt_with_is_fenced(bench: Bench) -> None:
    store = bench.store()
    [number] = store.ask([request()])
    write(store, requests_done=[number])

    with pytest.raises(Fenced):
        write(store, requests_done=[number], started=[saga()])
    assert locked(store, "o-1") == {}


# Dead letters


def test_a_dead_letter_is_kept_byte_for_byte(bench: Bench) -> None:
    store = bench.store()
    write(store, dead_letters=[letter(7), letter(8, saga_id="o-1", attempts=3, replays=2, topic_id="")])

    found = letters(store)
    assert [replace(row, id=0) for row in found] == [
        letter(7),
        letter(8, saga_id="o-1", attempts=3, replays=2, topic_id=""),
    ]
    assert all(row.id > 0 for row in found)
    assert letters(store, []) == []


def test_a_dead_letter_whose_origin_is_there_is_left_as_it_is(bench: Bench) -> None:
    store = bench.store()
    write(store, dead_letters=[letter(7)])

    write(store, dead_letters=[letter(7, reason="other"), letter(7, topic_id="t-2"), letter(8)])

    assert [(row.record.offset, row.topic_id, row.reason) for row in letters(store)] == [
        (7, "t-1", "undecodable"),
        (7, "t-2", "undecodable"),
        (8, "t-1", "undecodable"),
    ]


def test_a_record_that_took_the_place_of_a_truncated_one_is_a_dead_letter_of_its_own(bench: Bench) -> None:
    store = bench.store()
    first = letter(7)
    write(store, dead_letters=[first])

    later = msgspec.structs.replace(first.record, timestamp_ms=first.record.timestamp_ms + 1)
    second = replace(first, record=later)
    write(store, dead_letters=[second, second])

    assert [row.record.timestamp_ms - first.record.timestamp_ms for row in letters(store)] == [0, 1]


def test_dead_letters_are_settled_and_their_replays_counted_at_the_time_of_the_batch(bench: Bench) -> None:
    store = bench.store()
    write(store, dead_letters=[letter(1), letter(2, state="received", saga_id="o-1")])
    first, second = (row.id for row in letters(store))

    with store.batch() as batch:
        batch.write(Changes(settled={first: "discarded", second: "replayed"}, replayed=[second]))
        moment = batch.now

    assert [(row.state, row.replays, row.updated_at) for row in letters(store)] == [
        ("discarded", 0, moment),
        ("replayed", 1, moment),
    ]


def test_only_parked_dead_letters_whose_saga_exists_are_foldable_first_come_first(bench: Bench) -> None:
    store = bench.store()
    write(
        store,
        dead_letters=[
            letter(1, state="parked", saga_id="o-1", created_at=T0 + SECOND),  # then the database's clock stepped back
            letter(2, state="parked", saga_id="o-1"),
            letter(3, state="parked", saga_id="o-2"),
            letter(4, state="received", saga_id="o-1"),
            letter(5, state="dead", saga_id="o-1"),
            letter(6, state="parked"),
        ],
    )
    with store.batch() as batch:
        assert batch.foldable(COORDINATOR, ["order"], 10) == []
    write(store, started=[saga("o-1")])
    with store.batch() as batch:
        assert [row.record.offset for row in batch.foldable(COORDINATOR, ["order"], 10)] == [1, 2]
        assert [row.record.offset for row in batch.foldable(COORDINATOR, ["order"], 1)] == [1]


def test_a_sweep_turns_old_parked_letters_into_dead_ones_up_to_the_limit(bench: Bench) -> None:
    store = bench.store()
    rows = [letter(n, state="parked", saga_id="o-1", created_at=T0 + n * SECOND) for n in (1, 2, 3)]
    write(store, dead_letters=[*rows, letter(4, state="received", saga_id="o-1")])

    assert store.sweep(COORDINATOR, T0 + 3 * SECOND, 1) == 1
    assert store.sweep(COORDINATOR, T0 + 3 * SECOND, 10) == 1
    assert store.sweep(COORDINATOR, T0 + 3 * SECOND, 10) == 0
    assert [row.state for row in letters(store)] == ["dead", "dead", "parked", "received"]


# Offsets


def test_seeding_inserts_only_what_is_not_there(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5)})
    store.seed_offsets(COORDINATOR, {P0: offset(9), P1: offset(2, topic_id="")})
    store.seed_offsets(COORDINATOR, {})

    assert store.offsets(COORDINATOR) == {P0: offset(5), P1: offset(2, topic_id="")}


def test_a_reset_overwrites_an_offset_that_stands_where_it_was_known_to_stand(bench: Bench) -> None:
    store = bench.store()
    store.seed_offsets(COORDINATOR, {P0: offset(5), P1: offset(5)})
    known = store.offsets(COORDINATOR)

    store.reset_offset(COORDINATOR, P0, known[P0], offset(1, topic_id="t-2"), audit("reset"))
    for late in (known[P0], offset(1)):
        with pytest.raises(Fenced):
            store.reset_offset(COORDINATOR, P0, late, offset(0, topic_id="t-3"), audit("reset"))
    with pytest.raises(Fenced):
        store.reset_offset(COORDINATOR, Partition("never-seeded", 0), offset(0), offset(1), audit("reset"))

    assert store.offsets(COORDINATOR) == {P0: offset(1, topic_id="t-2"), P1: offset(5)}


def test_the_first_fingerprint_of_a_version_stays_on_record(bench: Bench) -> None:
    store = bench.store()
    assert store.register(COORDINATOR, "order", 1, "s:aaa") == "s:aaa"
    assert store.register(COORDINATOR, "order", 1, "s:bbb") == "s:aaa"
    assert store.register(COORDINATOR, "order", 2, "s:bbb") == "s:bbb"


def test_each_coordinator_has_fingerprints_of_its_own(bench: Bench) -> None:
    store = bench.store()
    assert store.register(COORDINATOR, "order", 1, "s:aaa") == "s:aaa"
    assert store.register("other", "order", 1, "s:bbb") == "s:bbb"
    assert store.register("other", "order", 1, "z:ccc") == "z:ccc"
    assert store.register(COORDINATOR, "order", 1, "s:ddd") == "s:aaa"


def test_a_fingerprint_of_another_scheme_gives_way_to_the_newer_one(bench: Bench) -> None:
    store = bench.store()
    assert store.register(COORDINATOR, "order", 1, "bbb") == "bbb"
    assert store.register(COORDINATOR, "order", 1, "s:aaa") == "s:aaa"
    assert store.register(COORDINATOR, "order", 1, "s:bbb") == "s:aaa"
