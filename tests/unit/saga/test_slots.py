"""First come, first served, at most so many at a time; cheap to throw away."""

from __future__ import annotations

import asyncio

from segue.saga.slots import Slots


async def entered(slots: Slots, order: list[int], n: int, leave: asyncio.Event) -> None:
    async with slots:
        order.append(n)
        await leave.wait()


def test_at_most_so_many_are_within_and_the_others_follow_in_their_order() -> None:
    async def main() -> None:
        slots, order = Slots(2), list[int]()
        leaves = [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(entered(slots, order, n, leave)) for n, leave in enumerate(leaves)]
        await asyncio.sleep(0)
        assert order == [0, 1]
        leaves[1].set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert order == [0, 1, 2]
        for leave in leaves:
            leave.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    asyncio.run(main())


def test_a_slot_given_to_who_is_cancelled_in_the_same_moment_is_not_lost() -> None:
    async def main() -> None:
        slots, order = Slots(1), list[int]()
        leaves = [asyncio.Event() for _ in range(3)]
        tasks = [asyncio.create_task(entered(slots, order, n, leave)) for n, leave in enumerate(leaves)]
        await asyncio.sleep(0)
        leaves[0].set()
        await asyncio.sleep(0)  # the slot is the second one's now, who has not run yet
        tasks[1].cancel()
        leaves[2].set()
        await asyncio.wait(tasks)
        assert order == [0, 2]

    asyncio.run(main())


def test_who_was_cancelled_is_looked_at_once_and_never_again() -> None:
    async def main() -> None:
        slots, order = Slots(1), list[int]()
        leave = asyncio.Event()
        tasks = [asyncio.create_task(entered(slots, order, n, leave)) for n in range(100)]
        await asyncio.sleep(0)
        for task in tasks[1:]:
            task.cancel()
        leave.set()
        await asyncio.wait(tasks)
        assert order == [0]
        assert not slots._waiting

    asyncio.run(main())
