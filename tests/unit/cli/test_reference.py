"""`docs/reference/cli.md` names every command and every exit code, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from segue.cli.exits import Exit
from tests.unit.cli.kit import segue

PAGE = (Path(__file__).resolve().parents[3] / "docs/reference/cli.md").read_text("utf-8")


def verbs(*noun: str) -> list[str]:
    listed = segue(*noun, "--help").out.partition("Commands:")[2]
    return re.findall(r"^  ([a-z]+)  ", listed, re.MULTILINE)


def test_the_page_has_every_command_and_no_other() -> None:
    commands = {f"{noun} {verb}" for noun in verbs() for verb in verbs(noun) or [""]}
    documented = set(re.findall(r"^\| `segue ([a-z]+(?: [a-z]+)?)", PAGE, re.MULTILINE)) | {"verify"}
    assert documented == {command.strip() for command in commands}


def test_the_page_has_every_exit_code_and_no_other() -> None:
    codes = PAGE.partition("## Exit codes")[2].partition("##")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", codes, re.MULTILINE)] == [int(code) for code in Exit]
