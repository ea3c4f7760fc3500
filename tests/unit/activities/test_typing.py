"""mypy accepts handlers that fit their contract and the worker's sessions, and refuses those that don't."""

from __future__ import annotations

from pathlib import Path

from mypy import api

ROOT = Path(__file__).parents[3]
PREAMBLE = """
from dataclasses import dataclass
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from segue.activities import Activity, Context, Undo, Worker

@dataclass(frozen=True)
class Order:
    id: str

@dataclass(frozen=True)
class Charged:
    id: str

charge = Activity("payments.charge", Order, Charged)
refund = charge.undo("payments.refund")
reserve = Activity("payments.reserve", Order)
Sync: sessionmaker[Session] = sessionmaker()
Async: async_sessionmaker[AsyncSession] = async_sessionmaker()
sync_worker = Worker("payments", sessions=Sync)
async_worker = Worker("payments", sessions=Async)
"""
GOOD = """
@sync_worker.handle(charge)
def a(ctx: Context[Session], order: Order) -> Charged:
    return Charged(ctx.idempotency_key)

@sync_worker.handle(refund)
def b(ctx: Context[Session], undo: Undo[Order, Charged]) -> None:
    ctx.session.flush()

@sync_worker.handle(reserve, transaction="manual")
def c(ctx: Context[Session], order: Order) -> None:
    ctx.heartbeat(1)

@async_worker.handle(charge)
async def d(ctx: Context[AsyncSession], order: Order) -> Charged:
    await ctx.session.flush()
    return Charged("c")
"""
BAD = {
    "wrong input": "@sync_worker.handle(charge)\ndef f(ctx: Context[Session], order: int) -> Charged: ...\n",
    "wrong output": "@sync_worker.handle(charge)\ndef f(ctx: Context[Session], order: Order) -> int: ...\n",
    "wrong undo": "@sync_worker.handle(refund)\ndef f(ctx: Context[Session], undo: Undo[Order, int]) -> None: ...\n",
    "async on sync": "@sync_worker.handle(charge)\nasync def f(ctx: Context[Session], order: Order) -> Charged: ...\n",
    "sync on async": "@async_worker.handle(charge)\ndef f(ctx: Context[AsyncSession], order: Order) -> Charged: ...\n",
    "wrong session": "@sync_worker.handle(charge)\ndef f(ctx: Context[AsyncSession], order: Order) -> Charged: ...\n",
    "wrong mode": "sync_worker.handle(charge, transaction='none')\n",
}


def test_handlers_are_checked_against_contract_and_sessions(tmp_path: Path) -> None:
    good = tmp_path / "good.py"
    good.write_text(PREAMBLE + GOOD)
    files = [good]
    for name, code in BAD.items():
        file = tmp_path / f"bad_{name.replace(' ', '_')}.py"
        file.write_text(PREAMBLE + code)
        files.append(file)
    settings = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(tmp_path),
        "--no-warn-unused-configs",
    ]
    output, errors, _ = api.run([*settings, "--disable-error-code=empty-body", *map(str, files)])
    assert errors == ""
    found = {Path(line.partition(":")[0]).name for line in output.splitlines() if ": error:" in line}
    assert found == {file.name for file in files if file is not good}, output
