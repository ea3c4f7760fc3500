"""Every rule of transactions in few round trips has a test that fails where it is broken."""

from __future__ import annotations

from inspect import signature

import psycopg
import pytest
from sqlalchemy.exc import SQLAlchemyError

from segue.errors import SegueError
from tests.conformance.broken_trips import VARIANTS

#: How a test may fail: by what it asserts, by what should have been raised and was not, or was and should not.
SEEN = (AssertionError, pytest.fail.Exception, SQLAlchemyError, SegueError, psycopg.Error)
#: Fixtures that come in several kinds, and the one that has trips.
KINDS = {"sql_bench": "postgres_bench", "bench": "postgres_bench"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_rule_is_seen(name: str, request: pytest.FixtureRequest) -> None:
    variant = VARIANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        given = {"monkeypatch": patch, **variant.arguments}
        wanted = signature(variant.seen_by).parameters
        for fixture in wanted:
            if fixture not in given:
                given[fixture] = request.getfixturevalue(KINDS.get(fixture, fixture))
        variant.apply(patch)
        with pytest.raises(SEEN):
            variant.seen_by(**{fixture: given[fixture] for fixture in wanted})
