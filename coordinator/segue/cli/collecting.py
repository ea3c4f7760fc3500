"""The garbage collector of a process that keeps thousands of objects alive and makes few cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects made and not yet freed by their counts, after which the youngest are looked at. Python's 700 come together
#: several times in each batch; its nearly half a million other objects of live sagas are then looked at every few
#: seconds, and that took a quarter of a coordinator's time.
YOUNG = 50_000


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Within the block the collector leaves alone what is there now, and looks at new objects rarely.

    What is not part of a cycle is freed at once as ever.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
