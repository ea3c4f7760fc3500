"""A client of the deployment that `segue.toml` and the environment describe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from segue.client import AsyncClient, Client
from segue.coordinator.schema import metadata
from segue.errors import ConfigError, InvalidPayload
from segue.saga import Saga, saga
from segue.topics.embedded import EmbeddedBroker

NAMES = ("shop.requests", "shop.replies")


@saga("order")
async def order_saga(s: Saga, order: str) -> str:
    return order


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedBroker]:
    monkeypatch.chdir(tmp_path)
    with EmbeddedBroker() as running:
        running.create_topics(NAMES)
        engine = create_engine(f"sqlite:///{tmp_path / 'here.db'}")
        metadata.create_all(engine)
        engine.dispose()
        (tmp_path / "segue.toml").write_text(
            '[coordinator]\nname = "shop"\ndatabase = "sqlite:///here.db"\n'
            f'[kafka]\nbootstrap = "{running.bootstrap}"\n'
            '[kafka.properties]\n"enable.idempotence" = false\n[limits]\npayload_bytes = 2000\n',
            "utf-8",
        )
        yield running


def test_a_client_is_made_as_the_command_line_is(broker: EmbeddedBroker) -> None:
    with Client.from_settings() as client:
        assert client.start(order_saga, "o-1", id="order-1").id == "order-1"
        with pytest.raises(InvalidPayload, match="allowed are 2000"):
            client.start(order_saga, "o" * 3000)


def test_the_environment_comes_before_the_file_and_a_file_can_be_named(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGUE_TOPICS_REQUESTS", "other.requests")
    (tmp_path / "segue.toml").rename(tmp_path / "elsewhere.toml")
    with Client.from_settings(tmp_path / "elsewhere.toml") as client:
        assert client._link.requests._names.requests == "other.requests"


async def _start(client: AsyncClient) -> str:
    async with client:
        return (await client.start(order_saga, "o-1", id="order-1")).id


def test_so_is_one_for_an_event_loop(broker: EmbeddedBroker) -> None:

    async def run() -> str:
        return await _start(AsyncClient.from_settings())

    assert asyncio.run(run()) == "order-1"


def test_what_is_wrong_in_the_file_is_said(broker: EmbeddedBroker, tmp_path: Path) -> None:
    (tmp_path / "segue.toml").write_text("[coordinator]\nnam = 'x'\n", "utf-8")
    with pytest.raises(ConfigError, match=r"there is no setting coordinator\.nam; did you mean coordinator\.name\?"):
        Client.from_settings()
