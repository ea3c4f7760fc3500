"""`segue init DIR`: a small project that runs: contracts, a saga, a service, a test, settings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from segue.cli.invocation import Invocation, command
from segue.errors import NotAllowed

#: What a new project consists of; in `project/` with `.txt` at the end, so that no tool takes them for modules of ours.
FILES = (
    "segue.toml",
    "contracts.py",
    "sagas.py",
    "payments.py",
    "test_sagas.py",
    "order.json",
    "dear.json",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "init")(make_project)


def make_project(run: Invocation, directory: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write a small project that runs; nothing that is there is overwritten."""
    taken = [name for name in FILES if (directory / name).exists()]
    if taken:
        raise NotAllowed(f"{directory} has {', '.join(taken)} already; name another directory")
    write_project(directory)
    if run.out.json:
        run.out.document({"directory": str(directory), "files": list(FILES)})
        return
    run.out.line(f"wrote {directory}: {', '.join(FILES)}")
    for line in _NEXT:
        run.out.line(line.format(directory=directory))


def write_project(directory: Path) -> None:
    """Write the project's files. Raises NotAllowed where that can't be done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (directory / name).write_bytes(files("segue.cli").joinpath("project", f"{name}.txt").read_bytes())
        # State of `segue dev` and the service's database are no sources.
        ignore = directory / ".gitignore"
        if not ignore.exists():
            ignore.write_text(".segue/\n*.db*\n__pycache__/\n", "utf-8")
    except OSError as error:
        raise NotAllowed(f"cannot write {directory}: {error.strerror}") from None


_NEXT = (
    "",
    "  cd {directory}",
    "  segue dev sagas payments:worker              # broker, coordinator and worker, until Ctrl-C",
    "",
    "and in a second terminal, in the same directory:",
    "",
    "  segue saga start order @order.json --id order-17 --wait",
    "  segue saga start order @dear.json --id order-18 --wait     # is compensated: nothing that dear is in stock",
    "  segue saga show order-18",
    "  python -m pytest                             # the saga, tested in milliseconds",
)
