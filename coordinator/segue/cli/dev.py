"""`segue dev`: broker, coordinator and workers for your own modules, on this machine, without anything installed.

The broker lives in this process and forgets all records when it stops. The sagas live in SQLite; at the next start the
coordinator sees that the broker is a new one, reads it from the start, and sends again what nobody has answered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from segue.activities import Worker
from segue.cli.children import Children
from segue.cli.connections import database_url, service_url
from segue.cli.db import migrate
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.loading import load_attribute, load_sagas, services_of
from segue.cli.run import load_worker
from segue.cli.stopping import stopping
from segue.clock import fresh_id
from segue.errors import ConfigError, UsageError
from segue.settings import EMBEDDED
from segue.settings.deployment import names_of
from segue.settings.embedded import BROKER_FILE, running_broker, write_broker_file
from segue.settings.load import environment_with, variable_of
from segue.settings.masking import mask_url
from segue.topics.embedded import EmbeddedBroker

#: Seconds that the children have to drain.
PATIENCE = 30.0
#: Seconds between two looks at the children.
_LOOK = 0.2


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "dev")(develop)


def develop(
    run: Invocation,
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="SAGAS... WORKER...",
            help="Modules with sagas (`sagas`), and workers (`payments:worker`).",
        ),
    ],
) -> None:
    """Run a broker, a coordinator and your workers on this machine until Ctrl-C.

    The outboxes of the workers' databases, and that of relay.database, are published, too.
    """
    sagas, workers = split(modules)
    if run.loaded.settings.kafka.bootstrap != EMBEDDED:
        raise ConfigError(
            f"kafka.bootstrap ({run.loaded.origins['kafka.bootstrap']}) names a Kafka; `segue dev` runs its own: "
            "leave the setting out, or run `segue coordinator run` and `segue worker run`"
        )
    if running_broker() is not None:
        raise Problem(f"a `segue dev` runs in this directory already ({BROKER_FILE} says where its broker is)")
    topics = _topics(run, sagas, workers)
    migrate(database_url(run))
    with stopping(drain=PATIENCE) as stop, _broker(topics) as address:
        children = Children(run.out.child, environment_with(run.flags, {**os.environ, "PYTHONUNBUFFERED": "1"}))
        try:
            children.add("coordinator", _segue(run, "coordinator", "run", *sagas))
            for spec in workers:
                children.add(spec, _segue(run, "worker", "run", spec))
            for url in _outboxes(run, workers):
                # A saga that a service starts in its own transaction is in its outbox.
                children.add(
                    f"relay {mask_url(url)}", _segue(run, "relay", "run"), {variable_of("relay.database"): url}
                )
            run.out.note(f"broker at {address}, state in {database_url(run)}; Ctrl-C stops all")
            while not stop.is_set():
                ended = children.step(_LOOK)
                if ended:
                    names = ", ".join(f"{child.name} (exit code {child.ended})" for child in ended)
                    raise Problem(f"ended: {names}; see above")
        finally:
            children.stop(PATIENCE)
    run.out.note("stopped; the sagas are kept, start again to go on")


def split(modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sagas and workers among the arguments: what names a Worker is one. Raises UsageError if either is missing."""
    workers = [spec for spec in modules if _is_worker(spec)]
    sagas = [spec for spec in modules if spec not in workers]
    if not sagas:
        raise UsageError("name a module with sagas, too: segue dev sagas payments:worker")
    if not workers:
        raise UsageError("name a worker, too: segue dev sagas payments:worker")
    return sagas, workers


def _is_worker(spec: str) -> bool:
    return ":" in spec and isinstance(load_attribute(spec, "a saga or a worker"), Worker)


def _outboxes(run: Invocation, workers: Sequence[str]) -> list[str]:
    """The databases whose outboxes nobody else would publish at once: those of the workers, and relay.database."""
    urls = [url for spec in workers if (url := load_worker(spec).database_url) is not None]
    if run.loaded.settings.relay.database:
        urls.append(run.loaded.settings.relay.database)
    found = dict.fromkeys(service_url(url).render_as_string(hide_password=False) for url in urls)
    return [
        url for url in found if url != database_url(run) and ":memory:" not in url and not url.endswith("sqlite://")
    ]


def _topics(run: Invocation, sagas: Sequence[str], workers: Sequence[str]) -> list[str]:
    """All topics of these sagas and workers; imports the modules, so that their errors are seen first."""
    names = names_of(run.loaded.settings)
    registry = load_sagas(sagas)
    found = [load_worker(spec) for spec in workers]
    served = {worker.name for worker in found}
    unserved = [service for service in services_of(registry) if service not in served]
    if unserved:
        run.out.warn(f"no worker here answers {', '.join(unserved)}: steps there will wait until their timeout")
    services = sorted(served | set(unserved))
    own = [names.requests, names.replies, names.dlq, names.events]
    return [*own, *(names.commands_of(service) for service in services), *(worker.dead_letters for worker in found)]


@contextmanager
def _broker(topics: Sequence[str]) -> Iterator[str]:
    with EmbeddedBroker() as broker:
        broker.create_topics(dict.fromkeys(topics))
        write_broker_file(broker.bootstrap, fresh_id())
        try:
            yield broker.bootstrap
        finally:
            BROKER_FILE.unlink(missing_ok=True)


def _segue(run: Invocation, *arguments: str) -> list[str]:
    """The command line of a child: this interpreter, this file of settings; flags go through its environment."""
    common = ["--config", str(run.loaded.path)] if run.loaded.path else []
    return [sys.executable, "-m", "segue.cli.main", *arguments, "--stop-at-eof", *common]
