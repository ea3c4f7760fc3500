"""`segue bench` as a user runs it: a coordinator of its own, figures, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from sqlalchemy import create_engine, inspect

#: Seconds, on a machine that is busy.
DEADLINE = 120.0


def bench(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGUE_")}
    command = [sys.executable, "-m", "segue.cli.main", "bench", "--sagas", "100", "--under-way", "20", "--json"]
    return subprocess.run(
        [*command, *arguments],
        cwd=directory,
        env={**environment, "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def figures(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document["sagas_per_s"] > 0
    # Started, four answers: five transitions each.
    assert abs(document["transitions_per_s"] / document["sagas_per_s"] - 5) < 0.5
    assert 0 < document["latency_ms"]["p50"] <= document["latency_ms"]["p99"]
    return document


def test_measures_the_embedded_pair_and_leaves_nothing(tmp_path: Path) -> None:
    document = figures(bench(tmp_path))

    assert "embedded" in document["parts"]
    assert list(tmp_path.iterdir()) == []


def test_measures_real_parts_in_topics_and_tables_of_its_own(
    tmp_path: Path, kafka_bootstrap: str, postgres_url: str
) -> None:
    settings = ("--bootstrap", kafka_bootstrap, "--database", postgres_url, "--partitions", "2")
    document = figures(bench(tmp_path, *settings, "--set", "topics.requests=orders.requests"))

    assert kafka_bootstrap in document["parts"]
    engine = create_engine(postgres_url)
    assert inspect(engine).get_schema_names() == ["information_schema", "public"]
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    assert not [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(("bench-", "orders."))]


def test_a_kafka_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = bench(tmp_path, "--bootstrap", "127.0.0.1:1")

    assert ran.returncode == 3
    assert "127.0.0.1:1" in ran.stderr
    assert list(tmp_path.iterdir()) == []
