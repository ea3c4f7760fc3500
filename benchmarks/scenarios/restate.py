"""Restate's server with its Python SDK: the same four trivial steps, at the best of several numbers under way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import peer
from benchmarks.bench import Bench
from benchmarks.figures import Spread, percentile
from benchmarks.place import PLACE, BenchError
from benchmarks.report import Row, spread_row
from tests.real.process import free_port

UNDER_WAY = (32, 128, 256)
QUICK_UNDER_WAY = (128,)
PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ports:
    ingress: int
    admin: int
    node: int
    handlers: int


def run(bench: Bench) -> list[Row]:
    """Best rate, best rate with failure and compensations, latency of one at a time."""
    try:
        server, _ = peer.restate_server(), peer.python()
    except BenchError as error:
        return [Row(scenario="restate", key="restate.per_s", what="Restate", unit="/s", value=None, remark=str(error))]
    tried = QUICK_UNDER_WAY if bench.quick else UNDER_WAY
    with _served(str(server)) as ports:
        rows = [_best(bench, ports, "restate", "4-step workflows", tried, "ann")]
        if not bench.quick:
            rows.append(_best(bench, ports, "restate_failures", "workflows undone after step 4", tried, "unlucky"))
            found = asyncio.run(_Load(ports.ingress, "ann").one_by_one(200))
            remark = f"p99 {percentile(found, 0.99):.1f} ms"
            p50 = percentile(found, 0.5)
            what = "Restate: one workflow at a time, p50"
            rows.append(Row(scenario="restate", key="restate.p50_ms", what=what, unit="ms", value=p50, remark=remark))
    return rows


def _best(bench: Bench, ports: _Ports, scenario: str, what: str, tried: tuple[int, ...], account: str) -> Row:
    length = (bench.pick(4, 4), bench.pick(4, 3), int(bench.pick(3, 2)))
    found = {count: Spread.of(asyncio.run(_Load(ports.ingress, account).rates(count, *length))) for count in tried}
    best = max(found, key=lambda count: found[count].median)
    shown = ", ".join(f"{count}: {spread.median:.0f}" for count, spread in found.items())
    return spread_row(
        scenario,
        f"{scenario}.per_s",
        f"Restate: {what}, best of {len(tried)}",
        "/s",
        found[best],
        remark=f"under way {shown}; one process of handlers, {PARTITIONS} partitions",
    )


class _Load:
    """Invokes the handler over HTTP/1.1 connections that stay open, with as little Python as can be."""

    def __init__(self, port: int, account: str) -> None:
        body = json.dumps({"account": account, "note": "n" * 250}).encode()
        self._port = port
        self._request = (
            b"POST /Four/run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        self.done = 0

    async def rates(self, count: int, warm_up: float, seconds: float, windows: int) -> list[float]:
        """Invocations a second of each window, `count` under way."""
        tasks = [asyncio.create_task(self._for_ever()) for _ in range(count)]
        await asyncio.sleep(warm_up)
        rates = []
        for _ in range(windows):
            before, began = self.done, time.monotonic()
            await asyncio.sleep(seconds)
            rates.append((self.done - before) / (time.monotonic() - began))
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                raise BenchError(f"Restate: {result!r}")
        return rates

    async def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of one invocation after the other."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        found = []
        for number in range(count + 20):
            began = time.perf_counter()
            await self._invoke(reader, writer)
            if number >= 20:
                found.append((time.perf_counter() - began) * 1000)
        writer.close()
        return found

    async def _for_ever(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                await self._invoke(reader, writer)
                self.done += 1
        finally:
            writer.close()

    async def _invoke(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise BenchError(head.decode(errors="replace"))
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))


@contextmanager
def _served(server: str) -> Iterator[_Ports]:
    """Server and handlers, registered with each other; both are ended with the block."""
    ports = _Ports(ingress=free_port(), admin=free_port(), node=free_port(), handlers=free_port())
    home = PLACE / "restate" / "data"
    shutil.rmtree(home, ignore_errors=True)
    environment = os.environ | {
        "RESTATE_BASE_DIR": str(home),
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_BIND_PORT": str(ports.node),
        "RESTATE_INGRESS__BIND_PORT": str(ports.ingress),
        "RESTATE_ADMIN__BIND_PORT": str(ports.admin),
        "RESTATE_DEFAULT_NUM_PARTITIONS": str(PARTITIONS),
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }
    handlers = peer.script("restate_app", {"port": ports.handlers})
    with (PLACE / "logs" / "restate-server.log").open("ab") as log:
        process = subprocess.Popen(
            [server, "--no-logo"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _register(ports)
        yield ports
    finally:
        for child in (process, handlers):
            child.kill()
            child.communicate()
        shutil.rmtree(home, ignore_errors=True)


def _register(ports: _Ports) -> None:
    body = json.dumps({"uri": f"http://127.0.0.1:{ports.handlers}"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{ports.admin}/deployments", body, {"content-type": "application/json"}
    )
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until:
                raise BenchError(f"Restate does not take its handlers: {error!r}") from None
            time.sleep(0.3)
