"""A fixed sequence of commands, to be interrupted at any point and compared with the state of a store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from cook_jupyter.model.instance import InstanceId, ProgressUpdate, ResultPayload, StatusUpdate, TaskState
from cook_jupyter.model.job import GroupId, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.reason import HEARTBEAT_LOST
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_group, a_job_spec, an_instance
from tests.store.contract import open_jobs

Command = Callable[[Store], Awaitable[Any]]

JOBS = [JobId(f"00000000-0000-4000-8000-{number:012}") for number in range(8)]
INSTANCES = [InstanceId(job_id) for job_id in JOBS]  # the first of each job
GROUP = GroupId("10000000-0000-4000-8000-000000000000")


def scenario() -> Sequence[Command]:
    """Return the same commands at each call: a few jobs go through their life cycle."""
    specs = [
        a_job_spec(job_id=job_id, max_retries=2, env={"A": "x" * 500}, group=GROUP if number < 2 else None)
        for number, job_id in enumerate(JOBS)
    ]
    instances = [
        an_instance(job_id, instance_id=instance_id)
        for job_id, instance_id in zip(JOBS, INSTANCES, strict=True)
    ]

    def update(number: int, state: TaskState, **fields: Any) -> StatusUpdate:
        return StatusUpdate(instance_id=INSTANCES[number], state=state, at_ms=20, **fields)

    ended = update(0, TaskState.FINISHED, result=ResultPayload(inline=b"r" * 3000, size=3000))
    lost = update(1, TaskState.LOST, reason=HEARTBEAT_LOST)
    return [
        lambda store: store.submit(specs[:3], [a_group(group_id=GROUP)], now_ms=1),
        lambda store: store.launch(instances[:2]),
        lambda store: store.report([update(0, TaskState.RUNNING), update(1, TaskState.RUNNING)]),
        lambda store: store.submit(specs[3:], now_ms=2),
        lambda store: store.progress([ProgressUpdate(instance_id=INSTANCES[0], sequence=1, percent=50)]),
        lambda store: store.report([ended, lost]),
        lambda store: store.set_limits(
            [LimitEntry(kind="share", user="ada", pool=DEFAULT_POOL, name="cpus", amount=2.0)]
        ),
        lambda store: store.launch([an_instance(JOBS[1], instance_id="again"), instances[2]]),
        lambda store: store.kill_jobs([JOBS[2], JOBS[3]]),
        lambda store: store.set_text("framework", "f" * 100),
        lambda store: store.retry([JOBS[3]], [4], now_ms=30),
        lambda store: store.launch(instances[3:]),
    ]


async def stored_state(store: Store) -> Sequence[Any]:
    """Return everything that a store holds of the scenario."""
    return [
        await store.jobs(JOBS),
        [await store.result(instance_id) for instance_id in INSTANCES],
        await store.groups([GROUP]),
        list(await store.jobs_of_group(GROUP)),
        list(await store.limits()),
        await store.get_text("framework"),
        await store.last_change(),
        await open_jobs(store),
    ]


async def steps() -> AsyncIterator[Sequence[Any]]:
    """Yield the expected state after none, one, two ... of the commands."""
    store = MemoryStore()
    await store.open()
    yield await stored_state(store)
    for command in scenario():
        await command(store)
        yield await stored_state(store)


def all_steps() -> Sequence[Sequence[Any]]:
    """Return the expected state after each number of commands."""

    async def collect() -> Sequence[Sequence[Any]]:
        return [step async for step in steps()]

    return asyncio.run(collect())
