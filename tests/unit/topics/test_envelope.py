from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import EnvelopeError
from segue.ids import saga_id_of_start
from segue.topics.broker import Headers, Record
from segue.topics.envelope import (
    Command,
    OutcomeNotUnderstood,
    Reply,
    Request,
    encode_headers,
    parse_command,
    parse_reply,
    parse_request,
    rfc3339,
    text_headers,
)

NOW = datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=UTC)
COMMAND = Command(
    id="c-1",
    activity="payments.charge",
    saga_id="order-17",
    saga_type="order",
    step="payments.charge#2",
    action="invoke",
    attempt=3,
    key="orders/order-17/payments.charge#2",
    reply_to="orders.replies",
    source="orders",
    causation_id="m-9",
    subject="17",
    deadline=NOW + timedelta(minutes=5),
    time=NOW,
    passed_on=(("traceparent", "00-abc-def-01"),),
)
REPLY = Reply(
    id="r-1",
    command_id="c-1",
    outcome="retry",
    saga_id="order-17",
    error="Busy",
    effect="unknown",
    retry_after=2.5,
    source="payments",
    type="payments.charge",
    saga_type="order",
    step="payments.charge",
    action="invoke",
    attempt="1",
    subject="17",
    time=NOW,
    passed_on=(("baggage", "a=1"),),
)
REQUEST = Request(id="m-1", action="start", saga_id="order-17", name="order", source="shop", time=NOW, reason="because")


def record(headers: Headers, key: bytes | None = None) -> Record:
    return Record(topic="t", partition=2, offset=7, key=key, value=b"{}", headers=headers)


def without(headers: Headers, name: str) -> Headers:
    return tuple(header for header in headers if header[0] != name)


def replaced(headers: Headers, name: str, value: bytes) -> Headers:
    return (*without(headers, name), (name, value))


def test_what_travels_is_read_back() -> None:
    assert parse_command(record(COMMAND.headers())) == COMMAND
    assert parse_reply(record(REPLY.headers())) == REPLY
    assert parse_request(record(REQUEST.headers())) == REQUEST


def test_what_is_optional_may_be_missing() -> None:
    bare = msgspec.structs.replace(COMMAND, subject=None, deadline=None, time=None, passed_on=(), action="compensate")
    assert parse_command(record(bare.headers())) == bare


def test_headers_are_text_and_single_valued() -> None:
    for headers in (COMMAND.headers(), REPLY.headers(), REQUEST.headers()):
        names = [name for name, _ in headers]
        assert len(names) == len(set(names))
        assert all(value is not None and value.decode() for _, value in headers)
    assert dict(COMMAND.headers())["ce_specversion"] == b"1.0"


def test_the_only_mandatory_header_of_a_reply_is_the_commands_id() -> None:
    reply = parse_reply(record((("ce_causationid", b"c-1"),), key=b"order-17"))
    assert (reply.command_id, reply.outcome, reply.effect, reply.saga_id) == ("c-1", "success", "none", "order-17")
    assert reply.id == "t:2:7"
    with pytest.raises(EnvelopeError, match="ce_causationid is missing"):
        parse_reply(record(()))


@pytest.mark.parametrize(
    "name",
    [
        "ce_id",
        "ce_type",
        "ce_sagaid",
        "ce_sagatype",
        "ce_sagastep",
        "ce_sagaaction",
        "ce_sagaattempt",
        "ce_sagakey",
        "ce_sagareplyto",
    ],
)
def test_a_command_without_a_mandatory_header_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(EnvelopeError, match=f"header {name} is missing"):
        parse_command(record(without(COMMAND.headers(), name)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ce_sagaaction", b"undo", "is 'undo', allowed are invoke and compensate"),
        ("ce_sagaattempt", b"0", "expected a number from 1"),
        ("ce_sagaattempt", b"-1", "expected a number from 1"),
        ("ce_sagaattempt", b"1e3", "expected a number from 1"),
        ("ce_sagaattempt", "٣".encode(), "expected a number from 1"),
        ("ce_sagaattempt", b"9" * 400, "expected a number from 1"),
        ("ce_sagadeadline", b"tomorrow", "expected an RFC 3339 time"),
        ("ce_id", b"\xff", "is not UTF-8 text"),
        ("ce_id", b"a\x00b", "contains NUL"),
        ("ce_id", b"x" * 641, "longer than 640"),
    ],
)
def test_a_command_with_a_header_without_meaning_is_refused(name: str, value: bytes, message: str) -> None:
    with pytest.raises(EnvelopeError, match=message):
        parse_command(record(replaced(COMMAND.headers(), name, value)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_time", b"1764000000000"),
        ("ce_time", b"Thu, 01 Jan 2026 00:00:00 GMT"),
        ("ce_time", b"0001-01-01T00:00:00+14:00"),
        ("ce_time", b"\xff"),
        ("ce_sagaretryafter", b""),
        ("ce_sagaretryafter", b"0s"),
        ("ce_sagaretryafter", b"-1"),
        ("ce_sagaretryafter", b"nan"),
        ("ce_sagaretryafter", b"1e300"),
        ("ce_sagaerror", b"x" * 256),
        ("ce_sagaerror", b"a\x00b"),
        ("ce_subject", "Müller".encode("latin-1")),
        ("ce_sagastep", b"x" * 641),
        ("baggage", b"x" * 8193),
    ],
)
def test_an_odd_header_that_only_advises_counts_as_absent(name: str, value: bytes) -> None:
    odd = parse_reply(record(replaced(REPLY.headers(), name, value)))
    assert odd == parse_reply(record(without(REPLY.headers(), name)))


def test_other_peoples_headers_do_not_matter_however_many_or_long_they_are() -> None:
    foreign = (("x-jwt", b"a" * 20_000), ("x-none", None), *((f"x-{n}", b"\xff") for n in range(200)))
    for parse, headers in ((parse_reply, REPLY.headers()), (parse_command, COMMAND.headers())):
        assert parse(record((*foreign, *headers))) == parse(record(headers))


@pytest.mark.parametrize("said", [b"Success", b"SUCCESS", b" success "])
def test_an_outcome_is_understood_in_whatever_letters(said: bytes) -> None:
    assert parse_reply(record(replaced(REPLY.headers(), "ce_sagaoutcome", said))).outcome == "success"


@pytest.mark.parametrize("said", [b"ok", b"", b"\xff"])
def test_an_outcome_that_nobody_understands_is_refused_with_its_command_and_saga(said: bytes) -> None:
    with pytest.raises(OutcomeNotUnderstood, match="allowed are success, failure, retry, pending") as caught:
        parse_reply(record(replaced(REPLY.headers(), "ce_sagaoutcome", said)))
    assert (caught.value.command_id, caught.value.saga_id) == ("c-1", "order-17")


@pytest.mark.parametrize(
    ("said", "meant"), [(b"None", "none"), (b"some", "unknown"), (b"", "unknown"), (b"\xff", "unknown")]
)
def test_an_effect_that_nobody_understands_proves_nothing(said: bytes, meant: str) -> None:
    assert parse_reply(record(replaced(REPLY.headers(), "ce_sagaeffect", said))).effect == meant


def test_a_saga_id_that_can_be_none_gives_way_to_the_key() -> None:
    for odd in (b"\xff", b"", b"<script>"):
        headers = replaced(REPLY.headers(), "ce_sagaid", odd)
        assert parse_reply(record(headers, key=b"order-17")).saga_id == "order-17"
        assert parse_reply(record(headers)).saga_id is None


@pytest.mark.parametrize(
    "text",
    ["2026-11-21t10:30:00.123456z", "2026-11-21T12:30:00.123456+02:00", "2026-11-21T10:30:00.123456789Z"],
)
def test_times_are_read_in_every_form_of_rfc_3339(text: str) -> None:
    assert parse_reply(record(replaced(REPLY.headers(), "ce_time", text.encode()))).time == NOW


def test_a_leap_second_is_the_one_before() -> None:
    headers = replaced(REPLY.headers(), "ce_time", b"2016-12-31T23:59:60Z")
    assert parse_reply(record(headers)).time == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_start_that_names_no_saga_is_named_after_its_message() -> None:
    headers = without(without(REQUEST.headers(), "ce_sagaid"), "ce_correlationid")
    assert parse_request(record(headers)).saga_id == saga_id_of_start("m-1")
    assert parse_request(record(headers, key=b"order-18")).saga_id == "order-18"
    with pytest.raises(EnvelopeError, match="a cancel needs the header ce_sagaid or a key"):
        parse_request(record(replaced(headers, "ce_sagaaction", b"cancel")))
    with pytest.raises(EnvelopeError, match="allowed are start, signal and cancel"):
        parse_request(record(replaced(headers, "ce_sagaaction", b"query")))


def test_a_saga_id_that_can_not_be_one_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="saga id '<script>' is not an id"):
        parse_request(record(replaced(REQUEST.headers(), "ce_sagaid", b"<script>")))


def test_binary_headers_without_a_meaning_are_left_out_and_the_last_of_a_name_wins() -> None:
    headers = (
        ("kafka_correlationId", b"\xff\xfe"),
        ("none", None),
        ("ce_id", b"1"),
        ("ce_id", b"2"),
        ("ce_type", None),
    )
    assert text_headers(record(headers)) == {"ce_id": "2"}


def test_times_are_utc_and_a_time_without_a_zone_is_taken_as_utc() -> None:
    assert rfc3339(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-11-21T10:30:00.123456Z"
    headers = replaced(COMMAND.headers(), "ce_sagadeadline", b"2026-11-21T10:30:00")
    assert parse_command(record(headers)).deadline == datetime(2026, 11, 21, 10, 30, tzinfo=UTC)


_NAMES = st.sampled_from([name for name, _ in (*COMMAND.headers(), *REPLY.headers())]) | st.text(max_size=5)


@given(st.lists(st.tuples(_NAMES, st.binary(max_size=12) | st.none()), max_size=30), st.none() | st.binary(max_size=5))
def test_any_headers_are_parsed_or_refused_and_nothing_else(headers: list[tuple[str, Any]], key: bytes | None) -> None:
    for parse in (parse_command, parse_reply, parse_request):
        try:
            parse(record(tuple(headers), key))
        except EnvelopeError:
            continue


def test_encoded_headers_keep_their_order() -> None:
    assert encode_headers([("b", "ü"), ("a", "")]) == (("b", "ü".encode()), ("a", b""))
