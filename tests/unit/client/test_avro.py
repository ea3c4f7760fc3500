"""A client of a coordinator whose requests topic is Avro."""

from __future__ import annotations

from pathlib import Path

from segue.client import Client
from segue.contract import Signal
from segue.saga import Saga, saga
from segue.topics.avro import AvroCodec
from segue.topics.codec import Codecs, TopicFormat
from segue.topics.memory import MemoryBroker
from segue.topics.names import TopicNames
from segue.topics.schemas import FileSchemas

NAMES = TopicNames(coordinator="shop")
go = Signal("go", int)


@saga("count")
async def count(s: Saga, n: int) -> int:
    return n + await s.receive(go)


def test_requests_are_written_in_the_format_of_their_topic(tmp_path: Path) -> None:
    for name in ("count", "go"):
        (tmp_path / f"{name}.avsc").write_text('"int"', "utf-8")
    avro = AvroCodec(FileSchemas(tmp_path))
    codecs = Codecs(avro, formats={NAMES.requests: TopicFormat(codec=avro, subject="{type}")})
    broker = MemoryBroker()
    broker.create_topic(NAMES.requests)
    with Client(NAMES, broker.producer(), codecs=codecs) as client:
        handle = client.start(count, 3, id="c-1")
        handle.signal(go, 4)
        handle.cancel("no more")
    records = broker.records(NAMES.requests)
    assert [(record.value or b"")[:1] for record in records] == [b"\0", b"\0", b""]
    assert {dict(record.headers)["content-type"] for record in records} == {b"application/avro"}
    decoded = [codecs.decode("application/avro", record.value, record.topic) for record in records]
    assert decoded == [b"3", b"4", b"null"]
