"""The real parts that `tests.real` starts are what the tests need."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

from tests.real.kafka import speaks_kafka
from tests.real.postgres import Postgres
from tests.real.process import CHECKOUT, PORTS, RealPartError, Server, free_port, started_at


def test_postgres_commits_durably_and_the_database_is_empty(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        shown = connection.execute(
            "SELECT current_setting('fsync'), count(*) FROM pg_tables WHERE schemaname = 'public'"
        )
        assert shown.fetchone() == ("on", 0)


def test_kafka_answers_its_own_protocol(kafka_bootstrap: str) -> None:
    host, _, port = kafka_bootstrap.partition(":")
    assert speaks_kafka(host, int(port))


def test_nothing_speaks_kafka_on_a_free_port() -> None:
    port = free_port()
    assert port in range(*PORTS)
    assert not speaks_kafka("127.0.0.1", port)


@pytest.fixture
def own_postgres(postgres_admin_url: str) -> Postgres:
    """A server of this process alone, not started; `postgres_admin_url` says that this machine can run one."""
    return Postgres(f"run-{os.getpid()}")


def test_a_killed_postgres_comes_back_at_the_same_address_with_its_data(own_postgres: Postgres) -> None:
    with own_postgres:
        address = own_postgres.address
        own_postgres.create_database("kept")
        first = own_postgres.pid
        assert own_postgres.kill9()
        assert not own_postgres.is_running()
        own_postgres.restart()
        assert (own_postgres.address, own_postgres.pid == first) == (address, False)
        with psycopg.connect(own_postgres.url("kept").replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    own_postgres.remove()


def test_starting_twice_uses_the_running_server_and_stops_only_that(own_postgres: Postgres) -> None:
    with own_postgres:
        assert not Postgres(own_postgres.name).start()
        pid = own_postgres.pid
        with Postgres(own_postgres.name) as other:
            assert other.pid == pid
        assert own_postgres.is_running()
    assert started_at(pid) is None
    assert not own_postgres.stop()
    own_postgres.remove()


def test_a_server_that_does_not_come_up_shows_its_own_words(own_postgres: Postgres) -> None:
    wrong = Postgres(own_postgres.name, settings=["shared_buffers=much"])
    with pytest.raises(RealPartError, match=r'did not come up[\s\S]*shared_buffers[^"]*"?: "much"'):
        wrong.start(fresh=True)
    assert not wrong.is_running()
    wrong.remove()


@pytest.mark.parametrize("kind", ["kafka", "postgres"])
def test_the_command_says_how_it_is_used(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.real.{kind}", "dance"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.startswith(f"usage: python -m tests.real.{kind} start|stop")


def test_a_machine_without_a_part_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(Postgres):
        @classmethod
        def missing(cls) -> str:
            return "no such server on this machine"

    server: Server = Absent("absent")
    with pytest.raises(RuntimeError, match="no such server on this machine"):
        server.start()
