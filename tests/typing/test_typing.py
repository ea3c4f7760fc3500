"""Users see their mistakes in the editor: both type checkers agree with `sagas.py`, inferences and refusals alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CHECKERS = {"mypy": ["mypy"], "basedpyright": ["basedpyright", "--pythonpath", sys.executable]}


# One test per checker, not two: two runs of mypy at the same time would share one cache.
@pytest.mark.parametrize("checker", sorted(CHECKERS))
def test_the_checker_infers_results_and_would_notice_a_mistake_that_is_not_found(checker: str, tmp_path: Path) -> None:
    path = CHECKOUT / "tests/typing/sagas.py"
    done = check(checker, path)
    assert done.returncode == 0, done.stdout + done.stderr

    # The right input on a line that is marked as a mistake: the mark is then unnecessary, and that is an error.
    right = path.read_text().replace("s.call(charge, shipped)", "s.call(charge, order)")
    # The strictness of basedpyright goes by folder, the comment on the first line holds anywhere.
    copy = tmp_path / "right.py"
    copy.write_text(right.replace("# pyright: ", "# pyright: strict, ", 1))
    done = check(checker, copy)
    assert done.returncode == 1
    assert "nnecessary" in done.stdout or "Unused" in done.stdout


def check(checker: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *CHECKERS[checker], str(path)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
