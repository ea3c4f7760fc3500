"""Users see their mistakes in the editor: both type checkers infer and refuse what the files here say.

The README is among them: what it shows has no mistake.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
CHECKED = [FOLDER / name for name in ("sagas.py", "services.py", "clients.py", "sagas_under_test.py")]
#: What the README leaves to the reader.
PREAMBLE = """\
# pyright: strict
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[Decimal]


@dataclass(frozen=True)
class Order:
    account: str
    total: Decimal


@dataclass(frozen=True)
class Charged:
    charge_id: str


@dataclass(frozen=True)
class Shipped:
    parcel: str


SessionLocal = sessionmaker()


"""
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

    readme = tmp_path / "readme.py"
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (FOLDER.parents[1] / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 2
    readme.write_text(PREAMBLE + "\n\n".join(blocks))

    done = check(checker, [*CHECKED, copy, readme])
    errors = [line for line in done.stdout.splitlines() if " error:" in line]
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in errors if copy.name not in line] == []
    assert len(errors) == 1
    assert "nnecessary" in errors[0] or "Unused" in errors[0]


def check(checker: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *CHECKERS[checker], *map(str, paths)]
    return subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
