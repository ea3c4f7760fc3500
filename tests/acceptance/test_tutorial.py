"""The pages that show a session say what happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance import tutorial


@pytest.mark.parametrize("page", tutorial.PAGES)
def test_whoever_follows_a_page_sees_what_it_shows(page: str, tmp_path: Path) -> None:
    seen = 0
    for block, content in tutorial.follow((tutorial.DOCS / page).read_text("utf-8"), tmp_path):
        if tutorial.bare(block.content) != tutorial.bare(content):
            pytest.fail(f"the page says\n\n{block.content}\nbut it is\n\n{content}", pytrace=False)
        seen += 1
    assert seen > 5


def test_a_program_that_does_not_end_as_it_should_keeps_no_other_one_alive(tmp_path: Path) -> None:
    class Hanging(tutorial.Behind):
        def close(self) -> None:
            super().close()
            closed.append(self)
            raise AssertionError("it hung")

    closed: list[tutorial.Behind] = []
    reader = tutorial.Reader(tmp_path)
    for _ in range(2):
        reader._behind.append(Hanging("sleep 1000", tmp_path, os.environ))

    with pytest.raises(AssertionError, match="it hung"):
        reader.close()
    assert len(closed) == 2


def test_two_runs_that_differ_in_times_and_ids_alone_say_the_same() -> None:
    one = "step took command\n a 33ms 7ed7091a-6cb9-587a-be07-e7d4318b9d54\nended 2026-11-21 13:21:22Z (4s ago)\n"
    other = "step   took  command\n a 1.2s  00000000-6cb9-587a-be07-e7d4318b9d54\nended 2027-01-01 00:00:00Z (3m6s ago)"

    assert tutorial.bare(one) == tutorial.bare(other)
    assert tutorial.bare(one) != tutorial.bare(one.replace("ended", "began"))
