"""`segue lint` as a command."""

from __future__ import annotations

from tests.unit.cli.kit import segue


def test_lines_that_go_over_a_set_are_named_and_end_with_code_1() -> None:
    ran = segue("lint", "tests.unit.saga.test_lint")
    assert ran.code == 1
    assert ran.out.count("it goes over the set") == 8
    assert "test_lint.py:" in ran.out


def test_code_without_such_lines_is_well() -> None:
    ran = segue("lint", "tests.unit.saga.test_lint:in_order", "--json")
    assert (ran.code, ran.json) == (0, {"sagas": 1, "warnings": []})
