"""Ids, limits and contracts: the words that everything else is made of."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.contract import Activity, Attribute, Signal, days, hours, minutes
from segue.errors import (
    BrokerUnavailable,
    ConfigError,
    ContractError,
    InvalidId,
    RejectedRecord,
    SegueError,
    is_transient,
)
from segue.ids import command_id, derive, reply_id, saga_id_of_start, saga_key
from segue.limits import check_id, check_name


def test_derived_ids_never_change() -> None:
    # Written down from a run: they are part of the wire protocol and of every database.
    assert command_id("orders", "o-1", "payments.charge", "invoke", 1) == "b65bd539-2009-5612-94a4-8b237574a47d"
    assert reply_id("c-1", "success") == "0bf332c6-8394-5365-a64a-5441c37a8d9c"
    assert saga_id_of_start("m-1") == "cef73a1d-f728-5763-bf1a-8a3cb011ae4a"
    assert saga_key("orders", "o-1", "payments.charge#2") == "orders/o-1/payments.charge#2"


@given(st.lists(st.text(max_size=4), min_size=1, max_size=4), st.lists(st.text(max_size=4), min_size=1, max_size=4))
def test_different_parts_make_different_ids(one: list[str], two: list[str]) -> None:
    if "\x1f" not in "".join(one + two):
        assert (derive(*one) == derive(*two)) == (one == two)
    assert UUID(derive(*one)).version == 5


def test_a_resend_has_the_same_id_and_a_retry_another_one() -> None:
    first = command_id("orders", "o-1", "payments.charge", "invoke", 1)
    assert first == command_id("orders", "o-1", "payments.charge", "invoke", 1)
    others = {
        command_id("orders", "o-1", "payments.charge", "invoke", 2),
        command_id("orders", "o-1", "payments.charge", "compensate", 1),
        command_id("other", "o-1", "payments.charge", "invoke", 1),
    }
    assert len({first, *others}) == 4
    assert reply_id(first, "pending", 0) != reply_id(first, "pending", 1)


@pytest.mark.parametrize("value", ["a", "A-Z.0_9:x", "x" * 255])
def test_an_id_is_returned_as_it_is(value: str) -> None:
    assert check_id("saga id", value) is value


@pytest.mark.parametrize("value", ["", "a b", "ä", "a/b", "x" * 256, "a\n", "<img>", "a\x00", None, 7])
def test_what_can_not_be_an_id_is_refused(value: str) -> None:
    with pytest.raises(InvalidId, match="saga id"):
        check_id("saga id", value)


@pytest.mark.parametrize("value", ["", ".a", "a.", "a..b", "a b", "a\n", "x" * 121, "ä"])
def test_what_can_not_be_a_name_is_refused(value: str) -> None:
    with pytest.raises(ContractError):
        check_name("activity", value)
    with pytest.raises(ContractError):
        Signal(value, int)
    with pytest.raises(ContractError):
        Attribute(value, int)


def test_an_activity_belongs_to_the_service_its_name_begins_with() -> None:
    assert Activity("payments.cards.charge", int).service == "payments"
    with pytest.raises(ContractError, match="names no service"):
        Activity("charge", int)


def test_a_compensation_belongs_to_the_same_service_and_has_none_itself() -> None:
    charge = Activity("payments.charge", int, str)
    refund = charge.undo("payments.refund")
    assert (refund.undoes, refund.output) == ("payments.charge", None)
    with pytest.raises(ContractError, match="itself a compensation"):
        refund.undo("payments.again")
    with pytest.raises(ContractError, match="must be an activity of 'payments'"):
        charge.undo("stock.refund")


def test_only_what_is_unavailable_is_transient() -> None:
    assert is_transient(BrokerUnavailable())
    assert not any(map(is_transient, (ConfigError(), RejectedRecord(), ValueError())))


def test_every_error_has_a_code_of_its_own() -> None:
    def family(kind: type[SegueError]) -> list[type[SegueError]]:
        return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in family(child))]

    ours = [kind for kind in family(SegueError) if kind.__module__ == "segue.errors"]
    assert len({kind.code for kind in ours}) == len(ours)


def test_durations_read_as_they_are_said() -> None:
    assert days(1) == hours(24) == minutes(1440)
