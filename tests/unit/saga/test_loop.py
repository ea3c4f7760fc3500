"""The deterministic event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from segue.errors import UsageError
from segue.saga import loop as loop_module
from segue.saga.loop import SagaLoop as _SagaLoop

# asyncio declares more methods abstract than a saga's loop can have.
SagaLoop: Callable[[], _SagaLoop] = _SagaLoop


async def _wait(future: asyncio.Future[None]) -> None:
    await future


def test_tasks_of_many_sagas_do_not_collide_in_asyncios_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []

    def compare(self: object, other: object) -> bool:
        compared.append(other)
        return self is other

    monkeypatch.setattr(loop_module._NumberedTask, "__eq__", compare)
    loops = [SagaLoop() for _ in range(300)]
    tasks = [one.create_task(_wait(one.create_future())) for one in loops]
    assert len(compared) < 300
    for one, task in zip(loops, tasks, strict=True):
        task.cancel()
        one.run()


def test_tasks_are_kept_in_sets_in_the_order_of_their_creation() -> None:
    loop = SagaLoop()
    tasks = [loop.create_task(_wait(loop.create_future())) for _ in range(50)]
    assert list(set(tasks)) == tasks
    for task in tasks:
        task.cancel()
    loop.run()


def test_time_moves_only_when_it_is_set() -> None:
    loop = SagaLoop()
    fired: list[float] = []
    loop.call_later(5, lambda: fired.append(loop.time()))
    loop.run()
    assert fired == []
    loop.now = 7_000_000
    loop.run()
    assert fired == []
    assert loop.fire(1)
    loop.run()
    assert fired == [7.0]


def test_a_cancelled_timer_does_not_fire() -> None:
    loop = SagaLoop()
    loop.call_later(5, lambda: None).cancel()
    assert loop.cancelled_timers == [1]
    assert not loop.fire(1)


def test_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="threads"):
        SagaLoop().run_in_executor(None, print)


def test_code_that_never_rests_is_an_error_instead_of_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "MAX_CALLBACKS", 1000)

    async def forever() -> None:
        while await asyncio.sleep(0, result=True):
            pass

    loop = SagaLoop()
    task = loop.create_task(forever())
    with pytest.raises(UsageError, match="come to rest"):
        loop.run()
    task.cancel()
    loop.run()
