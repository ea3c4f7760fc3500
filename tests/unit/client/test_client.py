"""The client against a real coordinator over SQLite, in one thread."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from segue import outbox
from segue.client import Client
from segue.contract import minutes
from segue.errors import (
    BrokerUnavailable,
    ConfigError,
    InvalidId,
    InvalidPayload,
    NotAllowed,
    NotFound,
    StartConflict,
    StoreUnavailable,
    UsageError,
)
from segue.outbox.schema import outbox_table
from segue.saga import SagaError
from segue.topics import MemoryBroker
from tests.unit.client.kit import (
    ORDER,
    Creeping,
    EstateWaiter,
    decision,
    misunderstood,
    not_deployed,
    note,
    nothing,
    order_saga,
    progress,
    returned,
    reviewed,
    texts,
)
from tests.unit.coordinator.kit import NAMES, Estate
from tests.unit.saga.kit import Order, Shipped


def test_a_started_saga_gives_its_output_as_the_declared_type(client: Client) -> None:
    handle = client.start(order_saga, ORDER, id="order-17")
    assert handle.id == "order-17"
    assert handle.result(timeout=minutes(2)) == Shipped("p-1")
    assert handle.status() == "completed"


def test_a_saga_without_output_results_in_none(client: Client) -> None:
    client.start(nothing, ORDER, id="n").result(timeout=minutes(1))
    assert client.handle("nothing", "n").result() is None


def test_a_saga_that_is_known_by_name_alone_results_in_plain_json(client: Client) -> None:
    client.start(order_saga, ORDER, id="order-17")
    assert client.handle("order", "order-17").result() == {"parcel": "p-1"}


def test_without_an_id_every_start_is_a_saga_of_its_own(client: Client) -> None:
    first, second = client.start(order_saga, ORDER), client.start(order_saga, ORDER)
    assert first.id != second.id
    assert first.result() == second.result() == Shipped("p-1")


def test_the_same_start_again_attaches_before_and_after_the_coordinator_has_seen_the_first(
    client: Client, estate: Estate
) -> None:
    first = client.start(order_saga, ORDER, id="order-17")
    second = client.start(order_saga, ORDER, id="order-17")
    assert first.result() == second.result() == Shipped("p-1")
    sent = len(estate.broker.records(NAMES.requests))
    assert client.start(order_saga, ORDER, id="order-17").result() == Shipped("p-1")
    assert len(estate.broker.records(NAMES.requests)) == sent
    assert [command.activity for command in estate.commands] == ["payments.charge", "shipping.ship"]


def test_another_input_or_type_under_a_taken_id_is_refused_by_the_start(client: Client) -> None:
    client.start(order_saga, ORDER, id="order-17").result()
    with pytest.raises(StartConflict, match="another input"):
        client.start(order_saga, Order(id="other"), id="order-17")
    with pytest.raises(StartConflict, match="'order', not a 'reviewed'"):
        client.start(reviewed, ORDER, id="order-17")


def test_a_conflict_that_the_start_could_not_see_is_raised_by_the_result(client: Client, estate: Estate) -> None:
    client.start(order_saga, ORDER, id="order-17")
    other_input = client.start(order_saga, Order(id="other"), id="order-17")
    other_type = client.start(reviewed, ORDER, id="order-17")
    for handle in (other_input, other_type):
        with pytest.raises(StartConflict):
            handle.result(timeout=minutes(1))
    # The coordinator saw both, too: neither was taken for a duplicate of the first.
    assert estate.observer.counts["dead_letter.dead"] == 2


def test_a_start_that_became_a_dead_letter_is_told_by_the_result(client: Client) -> None:
    handle = client.start(misunderstood, 1, id="x")
    with pytest.raises(InvalidPayload, match="invalid_input"):
        handle.result(timeout=minutes(1))
    with pytest.raises(InvalidPayload, match="invalid_input"):
        client.handle(misunderstood, "x").status()


def test_a_start_of_a_type_that_is_not_deployed_yet_is_waited_for(client: Client) -> None:
    handle = client.start(not_deployed, ORDER, id="x")
    with pytest.raises(TimeoutError, match="has it this saga type"):
        handle.result(timeout=minutes(1))


def test_an_old_dead_letter_does_not_speak_for_a_new_start(client: Client, estate: Estate) -> None:
    refused = client.start(misunderstood, 1, id="x")
    estate.run()
    again = client.start(order_saga, ORDER, id="x")
    assert again.result(timeout=minutes(1)) == Shipped("p-1")
    with pytest.raises(StartConflict):
        refused.result(timeout=minutes(1))


def test_an_input_that_the_coordinator_refuses_is_told_as_invalid(client: Client, estate: Estate) -> None:
    estate.request("start", "bad", "order", {"id": 7})
    estate.run()
    with pytest.raises(InvalidPayload, match="invalid_input"):
        client.handle(order_saga, "bad").result(timeout=minutes(1))


def test_an_input_of_another_type_and_an_impossible_id_are_refused_before_anything_is_sent(
    client: Client, estate: Estate
) -> None:
    wrong: Any = {"id": "o-1"}
    with pytest.raises(InvalidPayload, match="expected Order"):
        client.start(order_saga, wrong)
    with pytest.raises(InvalidId):
        client.start(order_saga, ORDER, id="a b")
    assert estate.broker.records(NAMES.requests) == []


def test_a_saga_that_had_all_undone_and_has_a_result_returns_it(client: Client, estate: Estate) -> None:
    handle = client.start(returned, ORDER, id="x")
    assert handle.result(timeout=minutes(1)) == Shipped("not needed")
    assert handle.status() == "compensated"
    assert estate.commands[-1].activity == "payments.refund"
    row = handle.describe()
    assert (row.error_code, row.error_message) == (None, None)


def test_a_saga_that_fails_raises_its_code_message_and_how_it_ended(client: Client, estate: Estate) -> None:
    handle = client.start(reviewed, ORDER, id="r-1")
    handle.signal(decision, False)
    with pytest.raises(SagaError, match="declined: by ann") as raised:
        handle.result(timeout=minutes(1))
    assert (raised.value.failure_code, raised.value.message) == ("declined", "by ann")
    assert raised.value.status == handle.status() == "compensated"
    assert estate.commands[-1].activity == "payments.refund"


def test_a_signal_before_its_saga_waits_for_it(client: Client) -> None:
    client.handle(reviewed, "r-1").signal(decision, True)
    assert client.start(reviewed, ORDER, id="r-1").result(timeout=minutes(1)) == "approved"


def test_a_signal_with_an_id_is_received_once(client: Client, estate: Estate) -> None:
    handle = client.start(reviewed, ORDER, id="r-1")
    handle.signal(decision, True, id="click-1")
    handle.signal(decision, True, id="click-1")
    handle.signal(decision, True)
    ids = [
        headers["ce_id"]
        for r in estate.broker.records(NAMES.requests)
        if (headers := texts(r))["ce_type"] == "decision"
    ]
    assert len(ids) == 3
    assert len(set(ids)) == 2
    assert handle.result(timeout=minutes(1)) == "approved"


def test_a_signal_of_another_type_is_refused(client: Client) -> None:
    wrong: Any = "yes"
    with pytest.raises(InvalidPayload):
        client.handle(reviewed, "r-1").signal(decision, wrong)


def test_a_cancelled_saga_is_undone_and_its_result_says_so(
    client: Client, estate: Estate, waiter: EstateWaiter
) -> None:
    handle = client.start(reviewed, ORDER, id="r-1")
    estate.run()
    assert handle.status() == "running"
    handle.cancel("the customer called")
    with pytest.raises(SagaError) as raised:
        handle.result(timeout=minutes(1))
    assert raised.value.status == "cancelled"
    assert "payments.refund" in [command.activity for command in estate.commands]


@pytest.mark.parametrize("compensate", ["", "some", "to:", "to", "to:" + "x" * 300, "to:\x00"])
def test_a_cancellation_says_what_is_to_be_undone_in_one_of_three_ways(client: Client, compensate: str) -> None:
    with pytest.raises(UsageError, match="compensate"):
        client.handle(reviewed, "r-1").cancel(compensate=compensate)


@pytest.mark.parametrize("reason", ["x" * 1025, "a\x00b", "\ud800"])
def test_a_reason_is_text_that_can_travel(client: Client, reason: str) -> None:
    with pytest.raises(UsageError, match="reason"):
        client.handle(reviewed, "r-1").cancel(reason)


def test_a_query_reads_what_the_saga_has_put_on_its_row(client: Client, estate: Estate) -> None:
    handle = client.start(order_saga, ORDER, id="order-17")
    handle.result()
    assert client.handle(order_saga, "order-17").query(progress) == 0.5
    assert handle.query(note) is None


def test_a_description_says_where_a_saga_is_and_what_it_waits_for(client: Client, estate: Estate) -> None:
    handle = client.start(reviewed, ORDER, id="r-1")
    estate.run()
    seen = handle.describe()
    assert (seen.id, seen.definition, seen.version, seen.status, seen.attention) == (
        "r-1",
        "reviewed",
        1,
        "running",
        "none",
    )
    assert seen.waiting_for == "signal decision"
    assert seen.ended_at is None
    assert seen.started_at.tzinfo is not None


def test_what_is_not_there_is_not_found(client: Client) -> None:
    handle = client.handle(order_saga, "nobody")
    for ask in (handle.status, handle.describe, lambda: handle.query(progress)):
        with pytest.raises(NotFound, match="no saga 'nobody'"):
            ask()


def test_a_saga_of_another_type_is_not_the_one_that_was_asked_for(client: Client, estate: Estate) -> None:
    client.start(order_saga, ORDER, id="order-17").result()
    with pytest.raises(NotFound, match="is a 'order', not a 'reviewed'"):
        client.handle(reviewed, "order-17").result()


@pytest.mark.parametrize("timeout", [timedelta(seconds=-1), timedelta.max, 10, float("nan")])
def test_a_time_to_wait_out_of_range_is_refused(client: Client, timeout: Any) -> None:
    handle = client.start(reviewed, ORDER, id="r-wait")
    for ask in (
        lambda: handle.result(timeout=timeout),
        lambda: handle.cancel(timeout=timeout),
        lambda: client.start(reviewed, ORDER, id="r-other", timeout=timeout),
    ):
        with pytest.raises(UsageError, match="timeout="):
            ask()


def test_a_result_that_takes_too_long_says_where_the_saga_is(client: Client, waiter: EstateWaiter) -> None:
    handle = client.start(reviewed, ORDER, id="r-1")
    with pytest.raises(
        TimeoutError, match=r"'r-1' has not ended within 0:00:05: it is running, waiting for signal decision"
    ):
        handle.result(timeout=timedelta(seconds=5))
    assert waiter.sleeps[:3] == [0.005, 0.01, 0.02]
    assert max(waiter.sleeps) <= 0.25
    with pytest.raises(TimeoutError, match="not there yet"):
        client.handle(order_saga, "nobody").result(timeout=timedelta(seconds=1))


# --- in the caller's own transaction


def test_a_cancellation_in_a_session_goes_if_and_only_if_it_commits(
    estate: Estate, url: str, waiter: EstateWaiter, tmp_path: Path
) -> None:
    service = create_engine(f"sqlite:///{tmp_path / 'service.db'}")
    outbox.metadata.create_all(service)
    with Client(NAMES, database=url, clock=waiter) as client:
        with Session(service) as session:
            client.handle(reviewed, "r-1").cancel("no more", session=session)
            session.rollback()
        with Session(service) as session, session.begin():
            client.handle(reviewed, "r-1").cancel("no more", compensate="none", session=session)
    with service.connect() as connection:
        [row] = connection.execute(select(outbox_table)).all()
    assert (row.aggregateid, row.type, row.saga_action) == ("r-1", "none", "cancel")
    service.dispose()


def test_a_start_and_a_signal_in_a_session_go_if_and_only_if_it_commits(
    estate: Estate, url: str, waiter: EstateWaiter, tmp_path: Path
) -> None:
    service = create_engine(f"sqlite:///{tmp_path / 'service.db'}")
    outbox.metadata.create_all(service)
    with Client(NAMES, database=url, clock=waiter) as client:
        with Session(service) as session:
            client.start(reviewed, ORDER, id="r-0", session=session)
            session.rollback()
        with Session(service) as session, session.begin():
            handle = client.start(reviewed, ORDER, id="r-1", session=session)
            handle.signal(decision, True, session=session)
        with Session(service) as session, session.begin():
            client.start(reviewed, ORDER, id="r-1", session=session)
        assert estate.broker.records(NAMES.requests) == []
        relay = outbox.Relay(service, estate.broker.producer())
        while relay.step():
            pass
        relay.shut()
        assert handle.result(timeout=minutes(1)) == "approved"
    with service.connect() as connection:
        assert connection.execute(select(outbox_table.c.id)).all() == []
    service.dispose()
    sent = [texts(record) for record in estate.broker.records(NAMES.requests)]
    assert {headers["ce_sagaid"] for headers in sent} == {"r-1"}
    assert [headers["ce_sagaaction"] for headers in sent] == ["start", "signal", "start"]
    assert {record.key for record in estate.broker.records(NAMES.requests)} == {b"r-1"}


# --- what is missing or out of reach


def test_a_client_without_a_database_says_what_to_configure(estate: Estate, waiter: EstateWaiter) -> None:
    with Client(NAMES, estate.broker.producer(), clock=waiter) as client:
        handle = client.start(order_saga, ORDER, id="order-17")
        for ask in (handle.result, handle.status, lambda: handle.query(progress)):
            with pytest.raises(ConfigError, match="database="):
                ask()


def test_a_client_without_kafka_says_what_to_configure(waiter: EstateWaiter) -> None:
    with Client(NAMES, clock=waiter) as client, pytest.raises(ConfigError, match="bootstrap="):
        client.start(order_saga, ORDER)


def test_a_broker_that_does_not_acknowledge_is_given_up_on_in_time() -> None:
    broker = MemoryBroker()
    broker.down = True
    clock = Creeping()
    with Client(NAMES, broker.producer(), clock=clock) as client:
        with pytest.raises(BrokerUnavailable, match=r"'order-17' within 0:00:05.*same id"):
            client.start(order_saga, ORDER, id="order-17", timeout=timedelta(seconds=5))
        assert clock.seconds <= 7
        broker.down = False
        client.start(order_saga, ORDER, id="order-17")
    # What was given up on may arrive after all.
    assert len(broker.records(NAMES.requests)) == 2


def test_a_topic_that_is_not_there_is_told() -> None:
    broker = MemoryBroker(auto_create=False)
    with Client(NAMES, broker.producer()) as client, pytest.raises(ConfigError, match="no such topic"):
        client.start(order_saga, ORDER)


def test_a_database_that_does_not_answer_for_a_while_is_asked_again(client: Client, monkeypatch: Any) -> None:
    handle = client.start(order_saga, ORDER, id="order-17")
    look, failures = client._link.reader.look, iter(range(5))

    def failing(saga_id: str) -> Any:
        if next(failures, None) is not None:
            raise StoreUnavailable("failing over")
        return look(saga_id)

    monkeypatch.setattr(client._link.reader, "look", failing)
    assert handle.result(timeout=minutes(1)) == Shipped("p-1")

    def gone(_: str) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(client._link.reader, "look", gone)
    client.start(order_saga, ORDER, id="order-18")
    with pytest.raises(StoreUnavailable, match="gone"):
        handle.result()


def test_a_database_that_is_no_coordinators_is_told(tmp_path: Path) -> None:
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    with (
        Client(NAMES, database=empty) as client,
        pytest.raises(ConfigError, match="no such table: saga; is `database`"),
    ):
        client.handle(order_saga, "x").status()
    with pytest.raises(ConfigError, match="not a URL"):
        Client(NAMES, database="nonsense")


def test_a_client_closes_what_it_made_and_leaves_what_it_was_given(url: str) -> None:
    engine = create_engine(url)
    producer = MemoryBroker().producer()
    with Client(NAMES, producer, database=engine) as client:
        assert client._link.reader.look("x").row is None
    with engine.connect():
        pass
    engine.dispose()
    connected = Client.connect(bootstrap="localhost:1", coordinator="test", database=url)
    connected.close()
    connected.close()


def test_a_signal_to_a_saga_that_is_over_is_refused_where_the_database_shows_it(estate: Any, client: Client) -> None:
    handle = client.start(order_saga, ORDER, id="o-9")
    handle.result(minutes(1))
    with pytest.raises(NotAllowed, match="saga 'o-9' is completed: nobody receives the signal 'decision' any more"):
        handle.signal(decision, True)
    handle.signal(decision, True, id="maybe sent before")
