"""The simulated event loop: asyncio as it is, another order in each seed, processes that vanish."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from tests.service.simulated.event_loop import Process, SimulatedEventLoop


def run(seed: int, main: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, SimulatedEventLoop]:
    loop = SimulatedEventLoop(Random(seed))
    task = loop.create_task(main())
    loop.run_until(task.done)
    return task.result(), loop


def test_time_is_virtual() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(1, main)[0] == 3600


def test_tasks_that_are_ready_run_in_an_order_that_follows_from_the_seed() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        await asyncio.gather(*(note(number) for number in range(6)))
        return order

    orders = {seed: tuple(run(seed, main)[0]) for seed in range(20)}

    assert len(set(orders.values())) > 10
    assert orders == {seed: tuple(run(seed, main)[0]) for seed in range(20)}


def test_locks_timeouts_and_task_groups_work() -> None:
    async def main() -> list[str]:
        lock, seen = asyncio.Lock(), []

        async def hold(name: str) -> None:
            async with lock:
                seen.append(name)
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as tasks:
            for name in ("a", "b"):
                tasks.create_task(hold(name))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        assert await asyncio.to_thread(lambda: 7) == 7
        return sorted(seen)

    result, loop = run(3, main)

    assert result == ["a", "b"]
    assert loop.time() == 7


def test_a_killed_process_runs_no_further_callback_and_no_finally() -> None:
    loop = SimulatedEventLoop(Random(1))
    process = Process("victim")
    seen: list[str] = []

    async def victim() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append("turn")
        finally:
            seen.append("finally")

    async def killer() -> None:
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)

    loop.create_task(victim(), context=process.context.copy())
    main = loop.create_task(killer())
    loop.run_until(main.done)

    assert seen == ["turn", "turn"]
    process.free()


def test_a_process_can_be_killed_between_any_two_of_its_callbacks() -> None:
    loop = SimulatedEventLoop(Random(1))
    process = Process("victim")
    turns = []

    async def victim() -> None:
        while True:
            turns.append(process.steps)
            await asyncio.sleep(0)

    async def world() -> None:
        await asyncio.sleep(1)

    process.dies_at = 4
    loop.create_task(victim(), context=process.context.copy())
    main = loop.create_task(world())
    loop.run_until(main.done)

    assert turns == [0, 1, 2, 3]
    process.free()


def test_a_simulation_in_which_nothing_can_happen_any_more_ends() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = SimulatedEventLoop(Random(1))
    task = loop.create_task(main())

    with pytest.raises(RuntimeError, match="stands still"):
        loop.run_until(task.done)
    task.cancel()
