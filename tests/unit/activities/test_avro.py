"""A worker whose replies are Avro: answers that come later, and what no schema is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segue.activities import Rejected, ReplyLater, reject, reply
from segue.errors import InvalidPayload, UsageError
from segue.topics.avro import AvroCodec
from segue.topics.codec import Codecs, TopicFormat
from segue.topics.schemas import FileSchemas
from tests.unit.activities.kit import REPLIES, Charged, Order, Service, command, memory_engine, refund

CHARGED = '{"type": "record", "name": "Charged", "fields": [{"name": "charge_id", "type": "string"}]}'


@pytest.fixture
def codecs(tmp_path: Path) -> Codecs:
    (tmp_path / "payments.charge.reply.avsc").write_text(CHARGED, "utf-8")
    avro = AvroCodec(FileSchemas(tmp_path))
    return Codecs(avro, formats={REPLIES: TopicFormat(codec=avro, subject="{type}")})


@pytest.fixture
def service(codecs: Codecs) -> Any:
    engine = memory_engine()
    made = Service(engine)
    made.consumer.close()
    made.worker.codecs = codecs
    made.connect()
    yield made
    engine.dispose()


def later_on(service: Service) -> str:
    """The token of a command whose answer is to come."""
    tokens: list[str] = []

    def ask_somebody(ctx: Any, order: Order) -> Charged:
        tokens.append(ctx.token)
        raise ReplyLater

    service.behaviour = ask_somebody
    service.send(command())
    service.settle()
    assert service.outcomes() == ["pending"]
    return tokens[0]


def on_the_wire(service: Service, codecs: Codecs) -> list[tuple[str, bytes | None, bytes]]:
    """Content type, value and what is read of it without the content type."""
    found = []
    for record in service.wire():
        [content_type] = [value for name, value in record.headers if name == "content-type" and value]
        found.append((content_type.decode(), record.value, codecs.decode("application/json", record.value)))
    return found


def test_an_answer_that_comes_later_is_in_the_format_of_its_topic(service: Service, codecs: Codecs) -> None:
    token = later_on(service)
    with service.sessions.begin() as session:
        reply(session, token, Charged("c-9"), codecs=codecs)
    service.settle(12)
    pending, answer = on_the_wire(service, codecs)
    assert pending == ("application/avro", None, b"null")
    assert answer[0] == "application/avro"
    assert (answer[1] or b"")[:1] == b"\0"
    assert answer[2] == b'{"charge_id":"c-9"}'
    service.send(command())  # a copy is answered with what is stored
    service.settle()
    assert on_the_wire(service, codecs)[-1] == answer


def test_an_answer_that_its_topic_can_t_hold_is_refused_and_nothing_is_written(
    service: Service, codecs: Codecs
) -> None:
    token = later_on(service)
    said = r"replies on test\.replies are application/avro; give `reply`"
    with pytest.raises(UsageError, match=said), service.sessions.begin() as session:
        reply(session, token, Charged("c-9"))
    with pytest.raises(InvalidPayload, match="field charge_id is missing"), service.sessions.begin() as session:
        reply(session, token, {"other": 1}, codecs=codecs)
    service.settle(12)
    assert service.outcomes() == ["pending"]
    with service.sessions.begin() as session:
        reply(session, token, Charged("c-9"), codecs=codecs)
    service.settle(12)
    assert service.outcomes() == ["pending", "success"]


def test_what_the_protocol_says_itself_is_json_and_says_so(service: Service, codecs: Codecs) -> None:
    token = later_on(service)
    with service.sessions.begin() as session:
        reject(session, token, Rejected("no_funds", "balance is 3"))
    service.settle(12)
    content_type, _, body = on_the_wire(service, codecs)[-1]
    assert content_type == "application/json"
    assert body == b'{"code":"no_funds","message":"balance is 3","details":null}'


def test_a_null_is_no_value_even_of_an_undo_that_found_nothing_to_undo(service: Service, codecs: Codecs) -> None:
    service.send(command(activity=refund))
    service.settle()
    assert on_the_wire(service, codecs) == [("application/avro", None, b"null")]


def test_a_service_with_another_format_than_before_gives_answers_to_what_was_pending(
    service: Service, codecs: Codecs
) -> None:
    service.consumer.close()
    service.worker.codecs = None
    service.connect()
    token = later_on(service)
    with service.sessions.begin() as session:
        reply(session, token, Charged("c-9"), codecs=codecs)
    service.settle(12)
    assert [content_type for content_type, _, _ in on_the_wire(service, codecs)] == [
        "application/json",
        "application/avro",
    ]
