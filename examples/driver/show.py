"""A whole demo from its first to its last line: what it runs on, the play, the proof, the report, the exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from sqlalchemy import create_engine, text

from examples.driver.estate import Estate, estate
from examples.driver.options import Options
from examples.driver.play import SEGUE, Cast, Played, play
from examples.driver.processes import CHECKOUT, DemoFailed, Processes
from examples.driver.progress import Progress
from examples.driver.signals import Interrupted, Signals
from examples.driver.violations import Violation
from segue.coordinator.reads import Reads
from segue.coordinator.view import SagaView, view_saga

#: Violations that are printed; all of them are counted.
SHOWN = 20
#: Lines of each process's log that are shown where something went wrong.
LOG_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was looked at, in sentences, and what is not so."""

    proved: Sequence[str]
    violations: Sequence[Violation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is told."""

    cast: Cast
    run: str
    played: Played
    proof: Proof
    #: What `segue verify` says of the coordinator's database; empty if all is well.
    verified: str
    #: A compensated saga, if there is one.
    undone: SagaView | None

    @property
    def well(self) -> bool:
        """Every promise kept, and no saga left over."""
        return not self.proof.violations and not self.verified and self.played.waiting == 0


#: (the services' databases, each saga's status) → what they prove.
Prove = Callable[[Mapping[str, str], Mapping[str, str]], Proof]


def show(cast: Cast, options: Options, prove: Prove) -> int:
    """Run it all; the exit code: 0 well, 1 a promise is broken or the demo could not run, 130 and 143 interrupted."""
    console = Console(stderr=options.json, highlight=False)
    try:
        with Signals() as signals, ExitStack() as stack:
            place = stack.enter_context(
                estate(options, coordinator=cast.coordinator, sagas=cast.sagas, services=_names(cast))
            )
            processes = stack.enter_context(Processes(place.directory, signals))
            with Progress(cast.title, len(cast.inputs), console) as progress:
                played = play(cast, place, processes, options, progress)
            report = Report(
                cast=cast,
                run=place.run,
                played=played,
                proof=prove(place.databases, played.statuses),
                verified=_verify(place),
                undone=_undone(place),
            )
            if not report.well:
                _tell_logs(place, console)
        tell(report, console, as_json=options.json)
        if options.bootstrap is not None:
            console.print(f"its topics, {place.names.coordinator}.*, are left in Kafka", soft_wrap=True)
        if options.keep is not None:
            console.print(f"logs and databases are in {options.keep}")
        return 0 if report.well else 1
    except DemoFailed as error:
        console.print(f"[red]the demo failed: {escape(str(error))}", soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        console.print(f"ended by {interrupted}; nothing is left running")
        return interrupted.code


def tell(report: Report, console: Console, *, as_json: bool) -> None:
    """Print the report."""
    if as_json:
        print(json.dumps(document(report), indent=2))
        return
    played, what = report.played, report.cast.title
    console.print(
        f"\n[bold]{len(played.statuses)} {what}[/]: {played.count('completed')} completed, "
        f"{played.count('compensated')} compensated, {played.count('failed')} refused at the first step, "
        f"{played.waiting} waiting",
        soft_wrap=True,
    )
    rate = len(played.statuses) / played.seconds
    console.print(f"in {played.seconds:.1f} s, {rate:.0f} sagas/s, all on this machine")
    if played.killed:
        console.print(
            f"on the way: kill -9 of {' and of '.join(played.killed)}; {played.duplicate_starts} starts and "
            f"{played.duplicate_deliveries} commands and replies delivered twice",
            soft_wrap=True,
        )
    if report.undone is not None:
        _tell_timeline(report.undone, console)
    console.print()
    _tell_proof(report, console)


def document(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    played, undone = report.played, report.undone
    return {
        "what": report.cast.title,
        "run": report.run,
        "sagas": len(played.statuses),
        "completed": played.count("completed"),
        "compensated": played.count("compensated"),
        "failed": played.count("failed"),
        "waiting": played.waiting,
        "seconds": round(played.seconds, 3),
        "sagas_per_second": round(len(played.statuses) / played.seconds, 1),
        "killed": list(played.killed),
        "duplicate_starts": played.duplicate_starts,
        "duplicate_deliveries": played.duplicate_deliveries,
        "timeline": None if undone is None else _plain_timeline(undone),
        "violations": [asdict(violation) for violation in report.proof.violations],
        "verify": report.verified,
        "well": report.well,
    }


def _tell_timeline(undone: SagaView, console: Console) -> None:
    console.print(f"\nOne that was compensated, [bold]{escape(undone.row.id)}[/]:")
    for entry in _plain_timeline(undone)["events"]:
        # That a step is to be done says no more than that its command is sent, which follows.
        if entry["type"] != "StepScheduled":
            console.print(f"[dim]{entry['seconds']:9.3f} s[/]  {escape(entry['text'])}", soft_wrap=True)


def _tell_proof(report: Report, console: Console) -> None:
    violations = report.proof.violations
    for violation in violations[:SHOWN]:
        console.print(f"[red]✗ {escape(str(violation))}", soft_wrap=True)
    if len(violations) > SHOWN:
        console.print(f"[red]✗ and {len(violations) - SHOWN} more")
    if report.played.waiting:
        console.print(f"[red]✗ {report.played.waiting} sagas have not ended")
    if report.verified:
        console.print(f"[red]✗ segue verify: {escape(report.verified)}", soft_wrap=True)
    if report.well:
        console.print("Proved from the services' own databases:")
        for sentence in report.proof.proved:
            console.print(f"[green]✓[/] {sentence}", soft_wrap=True)


def _tell_logs(place: Estate, console: Console) -> None:
    """The ends of the logs, which are about to be removed."""
    for log in sorted(place.directory.glob("*.log")):
        console.print(f"[bold]{log.name}[/]", soft_wrap=True)
        for line in log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
            console.print(f"  {escape(line)}", soft_wrap=True)


def _plain_timeline(undone: SagaView) -> dict[str, Any]:
    begin = undone.row.started_at
    return {
        "saga": undone.row.id,
        "status": undone.row.status,
        "compensated": list(undone.compensated),
        "events": [
            {"seconds": round((entry.at - begin).total_seconds(), 3), "type": entry.type, "text": entry.text}
            for entry in undone.timeline
        ],
    }


def _undone(place: Estate) -> SagaView | None:
    """The compensated saga with the longest history: retries, and an undo of several steps."""
    engine = create_engine(place.databases["coordinator"])
    query = "SELECT id FROM saga WHERE status = 'compensated' ORDER BY revision DESC, id LIMIT 1"
    try:
        with engine.connect() as connection:
            found = connection.execute(text(query)).scalar()
    finally:
        engine.dispose()
    if found is None:
        return None
    reads = Reads(place.databases["coordinator"])
    try:
        return view_saga(reads, found)
    finally:
        reads.close()


def _verify(place: Estate) -> str:
    """`segue verify`: every row is the fold of its history, every live saga has something that moves it."""
    command = [*SEGUE, "verify", "--database", place.databases["coordinator"]]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120)
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout}{done.stderr}"


def _names(cast: Cast) -> list[str]:
    return [service.name for service in cast.services]
