"""A small run without faults, in one thread: the coordinator's and the banks' databases on SQLite, and its history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from examples.transfer.bank import Account, Base, Hold, Movement
from examples.transfer.contracts import BANKS
from examples.transfer.sagas import transfer_saga
from examples.transfer.workload import openings, transfers
from segue import outbox
from segue.clock import SYSTEM_CLOCK
from segue.coordinator.schema import metadata
from segue.coordinator.sql import SqlStore
from segue.topics.envelope import Command
from tests.unit.coordinator.kit import NAMES, Estate, ManualClock

SEED, MOST = 3, 40


@dataclass(slots=True)
class Run:
    """What the checker is given; a test changes it before."""

    directory: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def databases(self) -> dict[str, str]:
        return {name: f"sqlite:///{self.directory / name}.sqlite" for name in ("coordinator", *BANKS, "driver")}

    def copy(self, directory: Path) -> Run:
        """The same in another directory, to be broken there."""
        shutil.copytree(self.directory, directory, dirs_exist_ok=True)
        return Run(directory, [dict(line) for line in self.lines])

    def sql(self, database: str, statement: str) -> Any:
        """Run a statement, committed; its first value, if it has any."""
        engine = create_engine(self.databases[database], poolclass=NullPool)
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    def saga(self, status: str) -> str:
        """Some saga that ended so."""
        found = self.sql("coordinator", f"SELECT min(id) FROM saga WHERE status = '{status}'")
        assert isinstance(found, str), status
        return found


class BankEstate(Estate):
    """With the banks as participants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        topics = [NAMES.commands_of(bank) for bank in BANKS]
        for topic in topics:
            self.broker.create_topic(topic)
        self.participants = self.broker.consumer(None)
        self.participants.subscribe(topics, starts=lambda _: {}, revoked=lambda _: None)


class Books:
    """Three banks that do what `examples.transfer.bank` does, on what the coordinator under test sends."""

    def __init__(self, estate: Estate, databases: Mapping[str, str]) -> None:
        self._estate = estate
        self._engines = {bank: create_engine(databases[bank], poolclass=NullPool) for bank in BANKS}
        for bank, engine in self._engines.items():
            Base.metadata.create_all(engine)
            outbox.metadata.create_all(engine)
            with Session(engine) as session, session.begin():
                for one in openings(bank):
                    balance = one.balance
                    session.add(Account(id=one.account, opening=balance, balance=balance, closed=one.closed))
            for action in ("hold", "release", "deposit", "take_back", "settle"):
                estate.answers[f"{bank}.{action}"] = self.answer

    def answer(self, command: Command) -> tuple[str, None] | tuple[str, None, dict[str, str]]:
        bank, _, action = command.activity.partition(".")
        body = self._estate.bodies[-1]
        posting = body["input"] if action in ("release", "take_back") else body
        with Session(self._engines[bank]) as session, session.begin():
            account = session.get_one(Account, posting["account"])
            if (action == "hold" and account.balance < posting["amount"]) or (action == "deposit" and account.closed):
                return "failure", None, {"error": "refused"}
            self._book(session, account, action, posting)
        return "success", None

    def _book(self, session: Session, account: Account, action: str, posting: Mapping[str, Any]) -> None:
        transfer, amount = posting["transfer_id"], posting["amount"]
        if action == "hold":
            session.add(Hold(transfer_id=transfer, account_id=account.id, amount=amount, state="open"))
        elif action in ("settle", "release"):
            held = session.query(Hold).filter_by(transfer_id=transfer, state="open").one()
            held.state = "settled" if action == "settle" else "released"
        if action != "settle":
            sign = 1 if action in ("release", "deposit") else -1
            account.balance += sign * amount
            session.add(Movement(transfer_id=transfer, account_id=account.id, amount=sign * amount, kind=action))


def play(directory: Path) -> Run:
    """Everything goes well: some transfers complete, some are undone, some are refused."""
    run = Run(directory)
    for database in ("coordinator", "driver"):
        engine = create_engine(run.databases[database], poolclass=NullPool)
        (metadata if database == "coordinator" else outbox.metadata).create_all(engine)
    store = SqlStore(run.databases["coordinator"])
    clock = ManualClock()
    clock.moment = SYSTEM_CLOCK.now()
    estate = BankEstate(store=store, definitions=[transfer_saga], clock=clock)
    Books(estate, run.databases)
    run.lines.append({"what": "run", "at": 0.0, "seed": SEED, "most": MOST})
    for transfer in transfers(MOST, SEED):
        estate.start(transfer_saga, transfer, transfer.id)
        run.lines += [
            {"what": "start", "at": 0.0, "phase": phase, "saga": transfer.id} for phase in ("attempted", "acknowledged")
        ]
    estate.run(turns=400)
    estate.close()
    store.close()
    rows = run.sql("coordinator", "SELECT json_group_array(json_array(topic, partition, next)) FROM consumer_offset")
    run.lines += [
        {
            "what": "offsets",
            "at": 0.0,
            "group": None,
            "topic": topic,
            "partition": partition,
            "end": end,
            "committed": 0,
        }
        for topic, partition, end in json.loads(rows)
    ]
    return run
