"""The page for users is run: its examples are these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from segue.contract import hours
from tests.unit.testing import shop, test_explore

PAGE = Path(__file__).resolve().parents[3] / "docs/how-to/test-a-saga.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
#: Those that need nothing from pytest or the disk.
TESTS = [block for block in BLOCKS if "def test_" in block and "segue_explore" not in block and "Path(" not in block]


@pytest.mark.parametrize("block", TESTS, ids=lambda block: re.search(r"def (test_\w+)", block)[1])  # type: ignore[index]
def test_an_example_of_the_page_passes(block: str) -> None:
    names: dict[str, Any] = {**vars(shop), "hours": hours, "ACTIVITIES": test_explore.ACTIVITIES}
    exec(compile(block, str(PAGE), "exec"), names)
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()


def test_every_way_to_test_has_an_example() -> None:
    assert len(TESTS) == 3
    assert len(BLOCKS) == 7
