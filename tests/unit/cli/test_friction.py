"""What a newcomer stumbles over: outboxes that nobody publishes, alerts that mean nothing, names for values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from segue import outbox
from segue.activities import Worker
from segue.cli import dev
from segue.cli.connections import service_url
from segue.cli.demo import _NEXT
from segue.cli.invocation import Invocation
from segue.cli.out import Out
from segue.clock import SYSTEM_CLOCK
from segue.coordinator.memory import MemoryStore
from segue.coordinator.service import Coordinator
from segue.errors import ConfigError
from segue.outbox.message import Message
from segue.saga import Registry, minutes
from segue.testing import SagaTest
from segue.topics import MemoryBroker, MemoryConsumer, TopicNames
from tests.unit.cli.kit import Database, Ran
from tests.unit.saga.kit import Charged, Order, Shipped, charge, confirm, reserve, ship
from tests.unit.saga.sagas import order_saga


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/service.db")
    outbox.create_all(engine)
    yield engine
    engine.dispose()


def left_in(service: Engine, ago: timedelta) -> None:
    message = Message(
        id="6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", aggregatetype="t", aggregateid="k", type="x", payload=b"{}",
        created_at=SYSTEM_CLOCK.now() - ago,
    )  # fmt: skip
    with Session(service) as session:
        outbox.add_message(session, message)
        session.commit()


def test_rows_of_a_services_outbox_that_nobody_publishes_are_told(
    database: Database, on_database: Callable[..., Ran], service: Engine
) -> None:
    relay = ("--set", f"relay.database={service.url}")
    left_in(service, timedelta(seconds=1))
    assert on_database("verify", *relay).code == 0
    with service.begin() as connection:
        connection.execute(outbox.metadata.tables["outbox"].delete())
    left_in(service, timedelta(minutes=5))
    assert on_database("verify").code == 0
    ran = on_database("verify", "--json", *relay)
    assert ran.code == 1
    [told] = ran.json["shown"]
    assert told["check"] == "outbox"
    assert told["message"].startswith(f"1 messages wait in the outbox of {service.url}")
    assert "no relay runs (`segue relay run`)" in told["message"]


def test_dev_has_a_relay_for_the_database_of_each_worker(service: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {
        "a:worker": Worker("payments", sessions=sessionmaker(service)),
        "b:worker": Worker("stock", sessions=sessionmaker(service)),
        "c:worker": Worker("mail", sessions=sessionmaker()),
    }
    monkeypatch.setattr(dev, "load_worker", workers.__getitem__)
    run = Invocation(out=Out(), file=None, flags={"relay.database": ("--set", "sqlite:///other.db")})
    assert dev._outboxes(run, list(workers)) == [str(service.url), "sqlite:///other.db"]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql+asyncpg://ann:pw@h/db", "postgresql+psycopg"),
        ("postgresql://ann@h/db", "postgresql+psycopg"),
        ("sqlite+aiosqlite:///x.db", "sqlite"),
        ("sqlite:///x.db", "sqlite"),
    ],
)
def test_a_relay_takes_the_url_of_an_async_application(given: str, used: str) -> None:
    assert service_url(given).drivername == used


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://h/db", "postgresql+pg9000://h/db"])
def test_a_relay_refuses_what_it_can_not_use_in_a_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match=r"relay\.database is"):
        service_url(url)


class Watching:
    """Keeps the events of a coordinator."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def count(self, name: str, n: int = 1) -> None:
        pass

    def event(self, name: str, **fields: object) -> None:
        if name.startswith("offset."):
            self.events.append(f"{name} {fields['partitions']}")


@pytest.mark.parametrize(("broker_id", "expected"), [("", "offset.alert 8"), ("dev-2", "offset.restarted 8")])
def test_topics_that_were_created_again_are_one_event_and_no_alert_where_that_is_expected(
    broker_id: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, store = TopicNames(coordinator="segue"), MemoryStore(SYSTEM_CLOCK.now)
    seen: list[str] = []
    for which in ("dev-1", broker_id):
        broker, watching = MemoryBroker(partitions=4), Watching()
        # Kafka gives its topics ids; the broker of `segue dev` has one for all of them.
        identity = "" if broker_id else which or "again"
        monkeypatch.setattr(MemoryConsumer, "topic_ids", lambda _, topics, it=identity: dict.fromkeys(topics, it))
        for topic in (names.requests, names.replies, names.dlq):
            broker.create_topic(topic)
        coordinator = Coordinator(
            names, Registry([order_saga]), store, broker.consumer("segue"), broker.producer(),
            observer=watching, broker_id=which if broker_id else "",
        )  # fmt: skip
        for _ in range(3):
            coordinator.step()
        seen = watching.events
    assert seen == [expected]


def test_the_demo_says_what_to_do_next() -> None:
    assert "segue init" in " ".join(_NEXT)
    assert "segue saga show" in " ".join(_NEXT)


def test_a_person_in_a_test_retries_and_skips_activities_as_well_as_names() -> None:
    t = SagaTest(order_saga)
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(reserve, returns=None)
    t.mock(ship, returns=Shipped("p-1"))
    t.mock(confirm, returns=None)
    t.retry_step(ship, after=minutes(1))
    t.skip_step(ship, after=minutes(1))
    assert t.run(Order()).status == "completed"
