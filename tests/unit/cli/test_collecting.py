"""How rarely a running coordinator collects garbage."""

from __future__ import annotations

import gc

import pytest

from segue.cli.collecting import YOUNG, collecting_rarely


def test_the_collector_leaves_alone_what_was_there_and_looks_rarely() -> None:
    with collecting_rarely():
        assert gc.isenabled()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == YOUNG


def test_the_collector_is_as_before_when_the_coordinator_has_ended_or_failed() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), collecting_rarely():
        raise KeyError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
