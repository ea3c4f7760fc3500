"""`python -m tests.chaos --minutes 3 --seed 7`: the real parts, everything that can be done to them, and the judgement.

The last line is JSON: sagas, kills, violations, recovery_p99_s, faults, seed, minutes. Exit code 1 after a violation or
if the run proved nothing; then logs, history and what is needed to look further are left in the directory it names.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from examples.driver.processes import DemoFailed
from examples.driver.signals import Interrupted, Signals
from tests.chaos import checker, disk, rest
from tests.chaos.estate import PROTOCOLS, TOPICS, estate, fresh_directory
from tests.chaos.faults import KINDS, World
from tests.chaos.fleet import fleet
from tests.chaos.history import History, Line, read
from tests.chaos.nemesis import Nemesis
from tests.chaos.tap import Tap
from tests.chaos.vacuity import struck, vacuous
from tests.real.kafka import Kafka
from tests.real.postgres import Postgres
from tests.real.process import RealPartError
from tests.real.run import main as real_parts

#: Sagas that the driver starts in a second.
RATE = 6.0
#: Violations that are printed; all are counted.
SHOWN = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 1 violations or nothing proved, 2 it could not be run, 130 and 143 interrupted."""
    options = _options(arguments)
    missing = Kafka.missing() or Postgres.missing() or disk.missing()
    if missing:
        print(f"tests.chaos: {missing}", file=sys.stderr)
        return 2
    # That the broker is down is no news here.
    logging.getLogger("segue.kafka").setLevel(logging.CRITICAL)
    directory = fresh_directory()
    code = 2
    try:
        with Signals() as signals:
            code = _run(options, directory, signals)
    except Interrupted as interrupted:
        code = interrupted.code
        print(f"ended by {interrupted}; nothing is left running")
    except (DemoFailed, RealPartError) as error:
        print(f"tests.chaos: {error}", file=sys.stderr)
    finally:
        if code in (0, 130, 143) and not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"history and logs: {directory}", file=sys.stderr)
    return code


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults are made")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="of everything drawn")
    parser.add_argument("--rate", type=float, default=RATE, help="sagas started in a second")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="of the coordinators' group; else told by the seed")
    parser.add_argument("--only", action="append", choices=sorted(KINDS), help="this kind of fault, to look at it")
    parser.add_argument("--keep", action="store_true", help="leave history and logs, even if all is well")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, directory: Path, signals: Signals) -> int:
    real_parts(["--sweep"])
    disk.leave_namespace()
    protocol = options.protocol or PROTOCOLS[options.seed % len(PROTOCOLS)]
    pace = f"{options.minutes:g} minutes, {options.rate:g} sagas a second"
    print(f"seed {options.seed}, {pace}, {protocol} group protocol", flush=True)
    seconds = options.minutes * 60
    history = History(directory / "history.jsonl")
    # Enough for the time before the first fault and until the last one is mended.
    most = int(options.rate * (seconds + 240))
    history.write("run", seed=options.seed, minutes=options.minutes, rate=options.rate, most=most, protocol=protocol)
    with ExitStack() as stack:
        stack.callback(history.close)
        place = stack.enter_context(estate(directory, protocol))
        try:
            one = stack.enter_context(fleet(place, history, signals))
            one.prepare()
            one.start_all()
            one.drive(seed=options.seed, rate=options.rate, most=most)
            rest.warm_up(one)
            with Tap(place.settings, TOPICS, history, seed=options.seed) as tap:
                world = World(place=place, fleet=one, tap=tap)
                Nemesis(world, history, random.Random(options.seed), seconds, options.only or sorted(KINDS)).run()
            begun = time.monotonic()
            rest.mend(one)
            rested = rest.come_to_rest(one)
            print(f"{'at rest' if rested else 'NOT at rest'} after {time.monotonic() - begun:.0f} s", flush=True)
            one.processes.stop()
            rest.write_down(one, history)
            return _judge(options, directory, place.databases)
        finally:
            for server in (place.kafka, place.postgres):
                shutil.copy(server.log, directory / f"{server.kind}.log")


def _judge(options: argparse.Namespace, directory: Path, databases: Mapping[str, str]) -> int:
    lines = list(read(directory / "history.jsonl"))
    story = checker.Story(lines)
    rows = checker.sagas(databases["coordinator"])
    violations = checker.judge(lines, databases)
    empty = [] if options.only else vacuous(story, rows)
    for violation in violations[:SHOWN]:
        print(f"✗ {violation}")
    for violation in empty:
        print(f"✗ proves nothing: {violation}")
    times = checker.recoveries(story, databases["coordinator"])
    _tell(lines, rows)
    faults = struck(story)
    result: dict[str, Any] = {
        "sagas": len(rows),
        "kills": sum(number for kind, number in faults.items() if KINDS[kind].kills),
        "violations": len(violations),
        "recovery_p99_s": round(checker.percentile(times, 0.99), 2),
        "faults": dict(sorted(faults.items())),
        "seed": options.seed,
        "minutes": options.minutes,
    }
    if violations or empty:
        _dump(directory, databases)
    print(json.dumps(result), flush=True)
    return 1 if violations or empty else 0


def _tell(lines: Sequence[Line], rows: dict[str, checker.Row]) -> None:
    """What is no part of the judgement, and worth knowing."""
    starts = Counter(line["phase"] for line in lines if line["what"] == "start")
    exits = Counter(line["process"] for line in lines if line["what"] == "exit")
    damaged = sum(line["what"] == "damaged" for line in lines)
    print(f"endings: {dict(Counter(row.status for row in rows.values()))}")
    print(f"starts: {dict(starts)}; damaged copies: {damaged}")
    print(f"ended by themselves and were started again: {dict(exits)}")
    print(f"a person was asked {sum(line['what'] == 'person' for line in lines)} times")


def _dump(directory: Path, databases: Mapping[str, str]) -> None:
    """What the databases hold, beside the history."""
    for name, url in databases.items():
        target = directory / f"{name}.sql"
        command = ["pg_dump", "--inserts", "-f", str(target), url.replace("+psycopg", "")]
        os.spawnvp(os.P_WAIT, command[0], command)


if __name__ == "__main__":
    sys.exit(main())
