"""The command line in shells, terminals and directories as they are: closed, full, narrow, ASCII, somewhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segue.cli.main import NOUNS, build, overview
from tests.unit.cli.kit import Database, shipping

FULL = Path("/dev/full")


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`segue` by a shell, as a process of its own."""
    segue = f"{sys.executable} -m segue.cli.main"
    return subprocess.run(
        ["/bin/sh", "-c", re.sub(r"^segue\b", segue, command)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("segue --help >&-", 1, "error: the result can't be written: the standard output is closed"),
        ("segue config >&-", 1, "error: the result can't be written: the standard output is closed"),
        ("segue config --json >&-", 1, '{"error":{"code":"output","message":"the result can\'t be written'),
        ("segue config 2>&-", 0, ""),
        ("segue saga start order @- <&-", 2, "is not JSON"),
        ("segue db upgrade >&- 2>&-", 1, ""),
    ],
)
def test_a_closed_stream_ends_in_a_sentence_and_a_code(command: str, code: int, says: str) -> None:
    ran = run(command)
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False), ran.stderr
    assert says in ran.stderr


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["segue --help", "segue config", "segue config --json", "segue config --doc"])
def test_a_full_disk_ends_in_a_sentence_and_a_code(command: str) -> None:
    ran = run(f"{command} >/dev/full")
    assert ran.returncode == 1
    assert "the result can't be written: No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert run(f"{command} 2>/dev/full").returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    ran = run("segue config --doc | head -1")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "# Settings\n", "")


def test_an_ascii_terminal_gets_escapes_and_no_traceback(database: Database) -> None:
    database.put(shipping("commande-é"))
    ran = run(f"segue saga show commande-é --database {database.url}", PYTHONIOENCODING="ascii", COLUMNS="80")
    assert ran.returncode == 0, ran.stderr
    assert "commande-\\xe9" in ran.stdout


def test_another_directory_is_told_from_a_database_that_is_not_there() -> None:
    commands = ("saga ls", "verify", "dlq ls", "saga retry x", "db check", "db current", "coordinator run", "lint")
    for command in (f"segue {each}" for each in commands):
        ran = run(command)
        assert ran.returncode == 2
        assert f"there is no segue.toml in {Path.cwd()}" in ran.stderr
        assert "segue init DIR" in ran.stderr
    Path("segue.toml").write_text('[coordinator]\nname = "shop"\n', "utf-8")
    assert "run `segue db upgrade` to make it" in run("segue saga ls").stderr


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it() -> None:
    Path("segue.toml").write_text('\ufeff[coordinator]\nname = "shop"\n', "utf-8")
    assert "shop" in run("segue config").stdout
    Path("order.json").write_text("\ufeff{}", "utf-8")
    ran = run("segue saga start order @order.json")
    assert "is not JSON" not in ran.stderr
    assert "no `segue dev` is running in" in ran.stderr


@pytest.mark.parametrize(
    ("url", "driver", "instead"),
    [
        ("postgresql+psycopg2://ann:secret@h/db", "psycopg2", "postgresql+psycopg://"),
        ("postgresql+asyncpg://ann:secret@h/db", "asyncpg", "postgresql+psycopg://"),
        ("sqlite+aiosqlite:///x.db", "aiosqlite", "sqlite://"),
    ],
)
def test_the_url_of_another_driver_is_refused_by_name(url: str, driver: str, instead: str) -> None:
    for command in ("saga ls", "db upgrade", "verify", "coordinator run json"):
        ran = run(f"segue {command}", SEGUE_COORDINATOR_DATABASE=url)
        assert ran.returncode == 2, ran.stderr
        assert "Traceback" not in ran.stderr
        if not command.startswith("coordinator"):
            assert f"it names the driver {driver}" in ran.stderr
            assert instead in ran.stderr
            assert "secret" not in ran.stderr


# Imports

_LOADED = "import sys; sys.argv[1:] = {!r}\nfrom segue.cli import main as m\ntry: m.main()\nexcept SystemExit: pass\n"
_TELL = "sys.stderr.write(' '.join(sorted({n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))))"
#: What tests and editable installs load by themselves.
_SURROUNDINGS = re.compile(r"_.*|sitecustomize|usercustomize|apport.*|distutils.*|pkg_resources|coverage")
#: What typer loads where it is installed, for users' models.
_TYPERS = {"annotated_doc", "annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
#: What parses arguments, prints tables and reads settings.
LIGHT = {"segue", "typer", "shellingham", "rich", "msgspec"} | _TYPERS


def loaded(*arguments: str) -> set[str]:
    """Packages that are not Python's own, after this command."""
    code = _LOADED.format(list(arguments)) + _TELL
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in ran.stderr.splitlines()[-1].split() if not _SURROUNDINGS.fullmatch(name)}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ((), {"segue"}),
        (("--help",), {"segue"}),
        (("-h",), {"segue"}),
        (("--version",), {"segue"}),
        (("config",), LIGHT),
        (("init", "shop"), LIGHT),
        (("saga", "ls", "--database", "sqlite:///nothing.db"), LIGHT | {"sqlalchemy", "greenlet", "cython_runtime"}),
    ],
)
def test_a_command_imports_what_it_needs_and_nothing_else(arguments: tuple[str, ...], allowed: set[str]) -> None:
    assert loaded(*arguments) - allowed == set()


def test_help_says_of_each_command_what_the_command_says_of_itself() -> None:
    import typer.main

    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    assert set(commands) == set(NOUNS)
    for name, (_, text) in NOUNS.items():
        assert commands[name].get_short_help_str(200) == text
        assert f"  {name:<14}{text}\n" in overview()


def test_the_version_is_that_of_the_package() -> None:
    ran = run("segue --version")
    assert re.fullmatch(r"segue \d+\.\d+\.\d+\S*\n", ran.stdout)
    assert run("segue --version saga ls").stdout == ran.stdout


def test_an_unknown_command_is_answered_by_the_whole_tree() -> None:
    ran = run("segue sagga ls")
    assert ran.returncode == 2
    assert "No such command 'sagga'" in ran.stderr


# --- completion


def completed(database: Database, words: str) -> str:
    line = f"segue {words}"
    return run(
        "segue", _SEGUE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1),
        SEGUE_COORDINATOR_DATABASE=database.url,
    ).stdout  # fmt: skip


def test_the_shell_offers_ids_and_steps(database: Database) -> None:
    database.put(shipping("order-17"), shipping("order-18"), shipping("other"))
    assert completed(database, "saga show order-").split() == ["order-18", "order-17"] or set(
        completed(database, "saga show order-").split()
    ) == {"order-17", "order-18"}
    assert "payments.charge" in completed(database, "saga skip order-17 pay")
    assert "saga" in completed(database, "sa").split()


def test_a_completion_without_a_database_offers_nothing_and_says_nothing(database: Database) -> None:
    ran = run(
        "segue", _SEGUE_COMPLETE="complete_bash", COMP_WORDS="segue saga show x", COMP_CWORD="3",
        SEGUE_COORDINATOR_DATABASE="sqlite:///nowhere.db",
    )  # fmt: skip
    assert (ran.stdout.strip(), ran.stderr) == ("", "")
