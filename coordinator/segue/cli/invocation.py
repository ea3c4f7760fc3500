"""One run of one command: its options, settings and connections, and how its errors become exit codes.

`command` adds the options that every command has, so each command declares only its own and receives an `Invocation`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from segue.cli.exits import Exit, exit_of
from segue.cli.out import Out
from segue.cli.standard import give_up_stdout, is_refusal, refusal
from segue.errors import ConfigError, SegueError
from segue.settings import Loaded, load
from segue.settings.load import variable_of
from segue.settings.masking import holds_secret

F = TypeVar("F", bound=Callable[..., None])

_PANEL = "Options of every command"


def _common(
    json: Annotated[
        bool, typer.Option("--json", help="Machine-readable output on stdout.", rich_help_panel=_PANEL)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Settings file instead of ./segue.toml.", rich_help_panel=_PANEL),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any setting.", rich_help_panel=_PANEL),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="The coordinator's database.", rich_help_panel=_PANEL),
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option("--bootstrap", metavar="HOST:PORT", help="Kafka.", rich_help_panel=_PANEL)
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_PANEL)
    ] = False,
) -> None:
    """Never called: its signature is what `command` adds."""


_COMMON = tuple(inspect.signature(_common, eval_str=True).parameters.values())
_COMMON_NAMES = frozenset(parameter.name for parameter in _COMMON)


class Invocation:
    """What a command gets: `out`, its settings (read at first use) and a stack of things to close at its end."""

    def __init__(self, *, out: Out, file: Path | None, flags: Mapping[str, tuple[str, object]]) -> None:
        self.out = out
        self.file = file
        self.flags = dict(flags)
        self.closing = ExitStack()
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The settings with their origins. Raises ConfigError."""
        if self._loaded is None:
            self._loaded = load(file=self.file, environment=os.environ, flags=self.flags)
            for warning in (*self._loaded.warnings, *_seen_by_others(self.flags)):
                self.out.warn(warning)
        return self._loaded


def command(app: typer.Typer, name: str | None = None, **options: Any) -> Callable[[F], F]:
    """Register a function of (run, its own options) as a command that has the common options, too."""

    def register(function: F) -> F:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_COMMON)]

        def call(**values: Any) -> None:
            common = {key: values.pop(key) for key in _COMMON_NAMES}
            perform(function, values, **common)

        call.__doc__ = function.__doc__
        call.__name__ = function.__name__
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, **options)(call)
        return function

    return register


def perform(
    function: Callable[..., None],
    values: Mapping[str, Any],
    *,
    json: bool,
    config: Path | None,
    set_: list[str] | None,
    database: str | None,
    bootstrap: str | None,
    debug: bool,
) -> None:
    """Run one command; every SegueError becomes a sentence and an exit code."""
    out = Out(json=json)
    try:
        flags = _flags(set_ or [], database, bootstrap)
        run = Invocation(out=out, file=config, flags=flags)
        with run.closing:
            function(run, **values)
    except SegueError as error:
        if debug:
            raise
        out.error(error.code, str(error))
        raise typer.Exit(exit_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # `segue saga ls | head`: the reader has seen enough.
        give_up_stdout()
        raise typer.Exit(Exit.OK) from None
    except OSError as error:
        if debug or not is_refusal(error):
            raise
        give_up_stdout()
        out.error("output", refusal(error))
        raise typer.Exit(Exit.PROBLEM) from None


def _seen_by_others(flags: Mapping[str, tuple[str, object]]) -> Iterator[str]:
    """Warnings about secrets among the flags: every user of this machine can read a command line."""
    for key, (flag, value) in flags.items():
        if holds_secret(key, value):
            variable = variable_of(key)
            yield (
                f"{flag} puts a secret on the command line, where other users of this machine can read it; "
                f"set {variable}, or {variable}_FILE to a file that holds it"
            )


def _flags(pairs: list[str], database: str | None, bootstrap: str | None) -> dict[str, tuple[str, object]]:
    flags: dict[str, tuple[str, object]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"--set {key!r}: write it as --set section.name=value")
        flags[key.strip()] = (f"--set {key.strip()}", value)
    if database is not None:
        flags["coordinator.database"] = ("--database", database)
    if bootstrap is not None:
        flags["kafka.bootstrap"] = ("--bootstrap", bootstrap)
    return flags
