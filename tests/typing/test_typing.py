"""Users see their mistakes in the editor: both type checkers infer and refuse what the files here say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
CHECKED = [FOLDER / name for name in ("sagas.py", "services.py", "clients.py", "sagas_under_test.py")]
CHECKERS = {"mypy": ["mypy"], "basedpyright": ["basedpyright", "--pythonpath", sys.executable]}


# One test per checker, and one run: two runs of mypy at the same time would share one cache.
@pytest.mark.parametrize("checker", sorted(CHECKERS))
def test_the_checker_infers_results_and_would_notice_a_mistake_that_is_not_found(checker: str, tmp_path: Path) -> None:
    # The right input on a line that is marked as a mistake: the mark is then unnecessary, and that is an error.
    wrong, right = "s.call(charge, shipped)", "s.call(charge, order)"
    text = (FOLDER / "sagas.py").read_text()
    assert wrong in text
    # The strictness of basedpyright goes by folder, the comment on the first line holds anywhere.
    copy = tmp_path / "corrected_copy.py"
    copy.write_text(text.replace(wrong, right).replace("# pyright: ", "# pyright: strict, ", 1))

    done = check(checker, [*CHECKED, copy])
    errors = [line for line in done.stdout.splitlines() if " error:" in line]
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in errors if copy.name not in line] == []
    assert len(errors) == 1
    assert "nnecessary" in errors[0] or "Unused" in errors[0]


def check(checker: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *CHECKERS[checker], *map(str, paths)]
    return subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
