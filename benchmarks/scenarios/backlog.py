"""An outage: the coordinator is killed, participants answer, deadlines pass, a coordinator comes back to replies."""

from __future__ import annotations

import time

from benchmarks.bench import Bench, Estate
from benchmarks.meters import resident_bytes
from benchmarks.report import Row

_OPEN = "SELECT count(*) FROM saga WHERE ended_at IS NULL"
_WRONG = "SELECT count(*) FROM saga WHERE status <> 'completed'"


def run(bench: Bench) -> list[Row]:
    """Drain rate, spurious timeouts, memory."""
    count = int(bench.pick(100_000, 10_000))
    # The first sagas must still be in time when the last one has been started.
    timeout = 30 + count / 1000
    with bench.estate(services=("mail",)) as estate:
        issued = _prepare(estate, count, timeout)
        with_answers = _answer(estate, count)
        rest = issued + timeout + 2 - time.time()
        time.sleep(max(0.0, rest))
        began = time.time()
        coordinator = estate.coordinator("second")
        before = resident_bytes(coordinator.pid)
        estate.wait(lambda: not estate.ask(_OPEN), 600, "the end of all sagas")
        ended = float(estate.ask("SELECT extract(epoch FROM max(ended_at))::float8 FROM saga"))
        first = float(estate.ask("SELECT extract(epoch FROM min(ended_at))::float8 FROM saga"))
        wrong, peak = int(estate.ask(_WRONG)), int(coordinator.tell("peak_rss"))
    return _rows(count, with_answers, began, first, ended, wrong, peak - before)


def _prepare(estate: Estate, count: int, timeout: float) -> float:
    """So many sagas wait for a reply to a command that is published; then the coordinator dies. Returns when."""
    coordinator = estate.coordinator()
    starter = estate.driver(topics=[], rate=50_000.0, limit=count, saga="hasty", input={"timeout": timeout})
    starter.tell("go")
    estate.wait(lambda: coordinator.tell("counts").get("published", 0) >= count, 600, "all commands published")
    coordinator.kill()
    del estate.children["coordinator"]
    return time.time()


def _answer(estate: Estate, count: int) -> int:
    estate.children.pop("driver").stop()
    responder = estate.driver(answer=True)
    estate.wait(lambda: responder.tell("counts")["answered"] >= count, 300, "all answers")
    return int(responder.tell("counts")["answered"])


def _rows(count: int, answers: int, began: float, first: float, ended: float, wrong: int, grown: int) -> list[Row]:
    rate = count / max(ended - first, 0.001)
    return [
        Row(
            scenario="backlog",
            key="backlog.per_s",
            what=f"backlog of {answers:,} replies after an outage: drained",
            unit="replies/s",
            value=rate,
            n=count,
            target="full speed",
            remark=f"first reply {first - began:.1f} s after the start, all after {ended - began:.1f} s",
        ),
        Row(
            scenario="backlog",
            key="backlog.spurious",
            what="backlog: sagas that timed out though their reply was there",
            unit="",
            value=wrong,
            target="0",
            met=wrong == 0,
        ),
        Row(
            scenario="backlog",
            key="backlog.memory_mb",
            what="backlog: growth of the coordinator's memory while it drains",
            unit="MB",
            value=grown / 1e6,
            target="bounded",
        ),
    ]
