"""The processes of a deployment, as an operator starts them, on real Kafka and PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.clock import SYSTEM_CLOCK
from tests.real.deployment import DEADLINE, Deployment


@pytest.fixture
def deployment(tmp_path: Path, kafka_bootstrap: str, postgres_url: str) -> Iterator[Deployment]:
    made = Deployment(tmp_path, kafka_bootstrap, postgres_url)
    made.segue("init", ".")
    yield made
    made.close()


def test_from_an_empty_database_and_no_topics_to_a_completed_saga(deployment: Deployment) -> None:
    refused = deployment.segue("coordinator", "run", code=2)
    assert "run `segue db upgrade`" in refused.stderr
    deployment.segue("db", "upgrade")
    refused = deployment.segue("coordinator", "run", code=1)
    assert f"lacks the topics {deployment.name}.requests, {deployment.name}.replies" in refused.stderr
    assert deployment.json("topics", "verify", code=1)["ok"] is False
    created = deployment.json("topics", "create")["created"]
    assert f"{deployment.name}.payments.commands" in created
    assert deployment.json("topics", "create")["created"] == []
    assert deployment.json("topics", "verify")["ok"] is True

    processes = [
        deployment.run("coordinator", "run"),
        deployment.run("coordinator", "run"),
        deployment.run("worker", "run", "payments:worker"),
    ]
    done = deployment.json("saga", "start", "order", "@order.json", "--id", "order-1", "--wait", "--wait-for", "80s")
    assert done["status"] == "completed"
    assert deployment.json("verify")["ok"] is True

    for process in processes:
        process.send_signal(signal.SIGTERM)
    give_up = SYSTEM_CLOCK.monotonic() + DEADLINE
    assert [process.wait(max(0.1, give_up - SYSTEM_CLOCK.monotonic())) for process in processes] == [0, 0, 0]
    assert deployment.log().count(f"coordinator {deployment.name} is drained") == 2
    assert "worker payments is drained" in deployment.log()
