"""The entry point `segue`."""

from __future__ import annotations

import typer

from segue.cli import audit, config, db, demo, dev, dlq, init, lint, run, saga, topics, verify
from segue.cli.bench import run as bench


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        help="Sagas on Kafka: one row that says where each process is.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for noun in (init, dev, demo, bench, run, saga, dlq, topics, audit, db, config, verify, lint):
        noun.register(app)
    return app


def main() -> None:
    """Run the command that the arguments name."""
    build()()


if __name__ == "__main__":
    main()
