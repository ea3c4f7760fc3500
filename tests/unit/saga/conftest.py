"""Each test of the engine runs with a cached and with an always evicted instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.saga.kit import Run


@pytest.fixture(params=[False, True], ids=["cached", "evicted"])
def begin(request: pytest.FixtureRequest) -> Callable[..., Run]:
    def make(definition: Any, input: Any = None, **more: Any) -> Run:
        return Run(definition, input, evict=request.param, **more)

    return make
