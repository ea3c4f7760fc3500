"""`segue coordinator|worker|relay run`: the processes of a deployment, each until SIGTERM, then drained."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from sqlalchemy import create_engine

from segue.activities import Worker
from segue.cli.collecting import collecting_rarely
from segue.cli.connections import broker_id, database_url, kafka, reads, saga_specs, service_url, store
from segue.cli.exits import Problem
from segue.cli.invocation import Invocation, command
from segue.cli.loading import load_attribute, load_sagas
from segue.cli.quarantine import clear, list_quarantined
from segue.cli.stopping import stopping
from segue.coordinator.batches import TAKE_OVER, BatchedOutbox
from segue.coordinator.service import Coordinator, Options
from segue.errors import ConfigError
from segue.observe import SILENT, Logging, Observer
from segue.outbox import Relay, RelayOptions
from segue.outbox.search_path import keep_search_path
from segue.outbox.sql import SqlOutboxStore
from segue.settings import LimitsSettings, Settings
from segue.settings.deployment import codecs_of, limits_of, names_of
from segue.topics.kafka import KafkaAdmin, KafkaConsumer, KafkaProducer
from segue.topics.settings import KafkaSettings

#: Seconds that Kafka may take to say which topics there are.
_TOPICS_TIMEOUT = 10.0


class Level(StrEnum):
    """How much is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


LogLevel = Annotated[Level, typer.Option("--log-level", help="What is logged, to stderr.")]
#: For children of `segue dev`.
StopAtEof = Annotated[bool, typer.Option("--stop-at-eof", hidden=True)]
INFO: Level = Level.info


def register(app: typer.Typer) -> None:
    """Add the three nouns."""
    for noun, text, function in (
        ("coordinator", "Drive sagas.", run_coordinator),
        ("worker", "Answer commands.", run_worker),
        ("relay", "Publish an outbox.", run_relay),
    ):
        group = typer.Typer(help=text, no_args_is_help=True)
        command(group, "run")(function)
        if noun == "relay":
            command(group, "ls")(list_quarantined)
            command(group, "clear")(clear)
        app.add_typer(group, name=noun)


def run_coordinator(
    run: Invocation,
    sagas: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Where the sagas are; else coordinator.sagas.")
    ] = None,
    log_level: LogLevel = INFO,
    stop_at_eof: StopAtEof = False,
) -> None:
    """Run a coordinator until SIGTERM or Ctrl-C; then it drains. Any number may run on one database."""
    observer = log(log_level)
    settings = run.loaded.settings
    registry = load_sagas(saga_specs(run, sagas))
    names = names_of(settings)
    client = kafka(run)
    # Reading first: a missing or old schema is said in a sentence, before anything is joined.
    reads(run).outbox()
    check_topics(client, [names.requests, names.replies])
    coordinator = Coordinator(
        names,
        registry,
        store(run),
        KafkaConsumer(client, group=names.coordinator, observer=observer),
        _producer(run, client, observer),
        observer=observer,
        options=Options(
            batch_size=settings.coordinator.batch_size,
            cache_size=settings.coordinator.cache_size,
            parked_for=settings.coordinator.parked_for,
            undos_per_minute=settings.coordinator.undos_per_minute or None,
            require_all_versions=settings.coordinator.require_all_versions,
            drain_timeout=settings.coordinator.drain_timeout.total_seconds(),
        ),
        codecs=codecs_of(settings),
        limits=limits_of(settings),
        broker_id=broker_id(run),
    )
    found = ", ".join(sorted(f"{definition.name} v{definition.version}" for definition in registry))
    run.out.note(f"coordinator {names.coordinator} runs {found}; Ctrl-C drains and stops it")
    options = RelayOptions(older_than=TAKE_OVER, batch=settings.coordinator.batch_size)
    with (
        stopping(at_eof=stop_at_eof, drain=settings.coordinator.drain_timeout.total_seconds()) as stop,
        _relay(run, None, client, observer, options),
        collecting_rarely(),
    ):
        coordinator.run(stop.is_set)
    run.out.note(f"coordinator {names.coordinator} is drained")


def run_worker(
    run: Invocation,
    worker: Annotated[str, typer.Argument(metavar="MODULE:ATTRIBUTE", help="The worker, like payments:worker.")],
    log_level: LogLevel = INFO,
    stop_at_eof: StopAtEof = False,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C; then it finishes what it has begun."""
    observer = log(log_level)
    settings = run.loaded.settings
    found = load_worker(worker)
    if found.observer is SILENT:
        found.observer = observer
    found.options = _options(found.options, settings)
    if found.codecs is None:
        found.codecs = codecs_of(settings)
    names = names_of(settings)
    client = kafka(run)
    check_topics(client, [names.commands_of(found.name), found.dead_letters])
    run.out.note(f"worker {found.name} answers {', '.join(found.activities)}; Ctrl-C drains and stops it")
    with stopping(at_eof=stop_at_eof, drain=found.options.drain) as stop, collecting_rarely():
        found.run(client.bootstrap, properties=client.properties, topics=names, stop=stop)
    run.out.note(f"worker {found.name} is drained")


def run_relay(
    run: Invocation,
    log_level: LogLevel = INFO,
    stop_at_eof: StopAtEof = False,
) -> None:
    """Publish the outbox of relay.database until SIGTERM or Ctrl-C. Any number may run on one database."""
    observer = log(log_level)
    settings = run.loaded.settings
    client = kafka(run)
    with stopping(at_eof=stop_at_eof, drain=0.0) as stop:
        relay = _relay(
            run, settings.relay.database or None, client, observer, RelayOptions(batch=settings.relay.batch_size)
        )
        run.out.note("the relay runs; Ctrl-C drains and stops it")
        with collecting_rarely():
            relay.run(stop)
    run.out.note("the relay is drained")


def load_worker(spec: str) -> Worker[Any]:
    """The worker that `module:attribute` names. Raises ConfigError."""
    found = load_attribute(spec, "a worker")
    if not isinstance(found, Worker):
        raise ConfigError(f"{spec} is a {type(found).__name__}, not a Worker of segue.activities")
    return found


def log(level: Level) -> Observer:
    """Log to stderr; returns what the loops report to."""
    logging.basicConfig(
        stream=sys.stderr, level=level.value.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    return Logging()


def check_topics(client: KafkaSettings, topics: list[str]) -> None:
    """Raise Problem where one of the topics is missing, BrokerUnavailable where Kafka does not answer."""
    admin = KafkaAdmin(client)
    try:
        missing = [topic for topic in topics if not admin.topic_exists(topic, _TOPICS_TIMEOUT)]
    finally:
        admin.close()
    if missing:
        raise Problem(
            f"Kafka at {client.bootstrap} lacks the topic{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "`segue topics create` makes them"
        )


def _options(options: Any, all_settings: Settings) -> Any:
    """The worker's own options, but for what is set."""
    settings = all_settings.worker
    if all_settings.limits != LimitsSettings():
        options = replace(options, limits=limits_of(all_settings))
    if settings.concurrency:
        options = replace(options, loop=replace(options.loop, concurrency=settings.concurrency))
    if settings.drain_timeout:
        options = replace(options, drain=settings.drain_timeout.total_seconds())
    return options


def _producer(run: Invocation, client: KafkaSettings, observer: Observer) -> KafkaProducer:
    producer = KafkaProducer(client, observer=observer)
    run.closing.callback(producer.close)
    return producer


def _relay(run: Invocation, url: str | None, client: KafkaSettings, observer: Observer, options: RelayOptions) -> Relay:
    """A relay of a service's database, or of the coordinator's (None).

    It has a producer and an engine of its own: both belong to one thread.
    """
    engine = keep_search_path(create_engine(service_url(url) if url else database_url(run), hide_parameters=True))
    run.closing.callback(engine.dispose)
    store = BatchedOutbox(engine) if url in (None, database_url(run)) else SqlOutboxStore(engine)
    return Relay(store, _producer(run, client, observer), options=options, observer=observer)
