"""Live sagas in memory: a cache of the fold, valid only as long as the revision in the database is the same."""

from __future__ import annotations

from collections import OrderedDict

from segue.saga.turn import Instance


class InstanceCache:
    """The least recently used instances go first. An instance that is being worked on is not in the cache."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._instances: OrderedDict[str, Instance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._instances)

    def revision(self, saga_id: str) -> int | None:
        """The revision of the instance that is here; None if there is none."""
        instance = self._instances.get(saga_id)
        return None if instance is None else instance.state.revision

    def take(self, saga_id: str, revision: int) -> Instance | None:
        """Take the instance out; None if it is not here or another process has moved the saga on."""
        instance = self._instances.pop(saga_id, None)
        if instance is None or instance.state.revision == revision:
            return instance
        discard(instance)
        return None

    def put(self, saga_id: str, instance: Instance) -> None:
        """Keep an instance whose transaction is known to be committed."""
        if instance.state.ended:
            discard(instance)
            return
        self._instances[saga_id] = instance
        while len(self._instances) > self._capacity:
            discard(self._instances.popitem(last=False)[1])

    def evict(self, saga_id: str) -> None:
        """Forget one saga; changes nothing but speed."""
        instance = self._instances.pop(saga_id, None)
        if instance is not None:
            discard(instance)

    def clear(self) -> None:
        """Forget everything."""
        while self._instances:
            discard(self._instances.popitem()[1])


def discard(instance: Instance) -> None:
    """Let go of an instance: its code is closed, so that no coroutine is left to the garbage collector."""
    if instance.program is not None:
        instance.program.close()
        instance.program = None
