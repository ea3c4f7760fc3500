"""Commands in Avro: written as their topic wants them, and a saga for whose command there is no schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.contract import Activity
from segue.coordinator.memory import MemoryStore
from segue.saga import Saga, saga
from segue.topics.avro import AvroCodec
from segue.topics.codec import Codecs, TopicFormat
from segue.topics.envelope import Request
from segue.topics.schemas import FileSchemas
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock

charge = Activity("payments.charge", int, int)
check = Activity("payments.check", int, int)
TOPIC = NAMES.commands_of("payments")


@saga("writes")
async def writes(s: Saga, n: int) -> int:
    return await s.call(charge if n > 0 else check, n)


def estate_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Estate:
    (folder / "payments.charge.avsc").write_text('"int"', "utf-8")
    avro = AvroCodec(FileSchemas(folder))
    clock = ManualClock()
    estate = Estate(MemoryStore(clock.now), [writes], clock)
    estate.coordinators[0].close()
    codecs = Codecs(avro, formats={TOPIC: TopicFormat(codec=avro, subject="{type}")})
    estate.coordinators = [estate.coordinator([writes], codecs=codecs)]
    monkeypatch.setattr(estate, "answer", lambda: False)  # nobody answers here
    return estate


def start(estate: Estate, n: int, body: bytes) -> None:
    request = Request(id=f"00000000-0000-4000-8000-00000000000{n}", action="start", saga_id=f"x-{n}", name="writes")
    estate.send(NAMES.requests, f"x-{n}", body, request.headers())
    for _ in range(5):
        estate.run()


def test_a_command_is_written_in_the_format_of_its_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate = estate_of(tmp_path, monkeypatch)
    start(estate, 1, b"3")
    [record] = estate.broker.records(TOPIC)
    assert (record.value or b"")[:1] == b"\0"
    assert dict(record.headers)["content-type"] == b"application/avro"


def test_a_saga_for_whose_command_there_is_no_schema_waits_for_a_person_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = estate_of(tmp_path, monkeypatch)
    start(estate, 1, b"-1")
    start(estate, 2, b"7")
    assert len(estate.broker.records(TOPIC)) == 1
    assert isinstance(estate.store, MemoryStore)
    [letter] = estate.store.tables.letters.values()
    assert "there is no schema to write payments.check with" in letter.error_message
