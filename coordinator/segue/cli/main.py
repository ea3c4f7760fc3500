"""The entry point `segue`.

A command imports what it needs and nothing else: `--help` and `--version` not even the library that parses arguments,
and a noun only its own modules.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

HELP = "Sagas on Kafka: one row that says where each process is."

#: The commands in the order of the help: what it says of each, and the module that has it.
NOUNS: dict[str, tuple[str, str]] = {
    "init": ("segue.cli.init", "Write a small project that runs; nothing that is there is overwritten."),
    "dev": ("segue.cli.dev", "Run a broker, a coordinator and your workers on this machine until Ctrl-C."),
    "demo": ("segue.cli.demo", "Run a small order saga with failures in a temporary directory, and check the outcome."),
    "bench": (
        "segue.cli.bench.run",
        "Measure sagas of four steps on your Kafka and database, or on the embedded ones.",
    ),
    "coordinator": ("segue.cli.run", "Drive sagas."),
    "worker": ("segue.cli.run", "Answer commands."),
    "relay": ("segue.cli.run", "Publish an outbox."),
    "saga": ("segue.cli.saga", "List sagas, show, start and signal one, and act on them."),
    "dlq": ("segue.cli.dlq", "Records that nobody could use: list, show, replay, discard."),
    "topics": ("segue.cli.topics", "The topics that Segue needs."),
    "audit": ("segue.cli.audit", "What people did to sagas and dead letters."),
    "db": ("segue.cli.db", "The schema of the coordinator's database."),
    "config": ("segue.cli.config", "Print every setting, its value and where it comes from; secrets are masked."),
    "verify": ("segue.cli.verify", "Check every saga: none is lost, late or inconsistent, and the audit is unbroken."),
    "lint": ("segue.cli.lint", "Name the lines of sagas that go over a set: its order is another one in each process."),
}
_WIDTH = 14


def build(noun: str | None = None) -> typer.Typer:
    """The command tree, or the part of it that `noun` is in."""
    import typer

    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        _: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
    ) -> None:
        """Sagas on Kafka: one row that says where each process is."""

    chosen = NOUNS.values() if noun is None else (NOUNS[noun],)
    for module in dict.fromkeys(module for module, _ in chosen):
        import_module(module).register(app)
    return app


def main() -> None:
    """Run the command that the arguments name."""
    from segue.cli.standard import standard_streams

    with standard_streams():
        arguments = sys.argv[1:]
        if arguments in ([], ["--help"], ["-h"]) and not _completing():
            sys.stdout.write(overview())
        elif arguments == ["--version"]:
            sys.stdout.write(f"segue {version()}\n")
        else:
            build(_noun(arguments))(prog_name="segue")


def overview() -> str:
    """What `segue --help` says."""
    lines = [f"{name:<{_WIDTH}}{text}" for name, (_, text) in NOUNS.items()]
    options = [
        f"{'--version':<{_WIDTH}}Print the version.",
        f"{'-h, --help':<{_WIDTH}}Show this message; `segue COMMAND --help` shows that of a command.",
        f"{'--install-completion':<{_WIDTH}}  Install completion for your shell.",
    ]
    body = "\n".join(
        ("Options:", *(f"  {line}" for line in options), "", "Commands:", *(f"  {line}" for line in lines))
    )
    return f"Usage: segue [OPTIONS] COMMAND [ARGS]...\n\n  {HELP}\n\n{body}\n"


def version() -> str:
    """The version that is installed."""
    from importlib.metadata import version as installed

    return installed("segue")


def _show_version(wanted: bool) -> None:
    if wanted:
        import typer

        typer.echo(f"segue {version()}")
        raise typer.Exit


def _noun(arguments: list[str]) -> str | None:
    """The command that is meant, if it is plain to see; the shell asks for completions with its line in a variable."""
    words = os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", "")).split()[1:]
    first = (words if _completing() else arguments)[:1]
    # While the first word is not finished, all commands are offered.
    finished = not _completing() or len(words) > 1
    return first[0] if first and first[0] in NOUNS and finished else None


def _completing() -> bool:
    return "_SEGUE_COMPLETE" in os.environ


if __name__ == "__main__":
    main()
