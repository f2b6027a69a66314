"""Schedulers for the tests of the service: an in-memory store and cluster, and a manual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import Group, Job, JobId, JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from tests.waiting import HANG_S

RunningSchedulerFactory = Callable[..., AbstractAsyncContextManager[Scheduler]]


@pytest.fixture
def cluster() -> MemoryCluster:
    """One host of two cpus."""
    return MemoryCluster({"h1": Resources(cpus=2, mem_mb=4096)})


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def running_scheduler(store: Store, cluster: MemoryCluster, tmp_path: Path) -> RunningSchedulerFactory:
    """Run a scheduler on `store` and `cluster`. It may be entered again, as after a restart."""

    @asynccontextmanager
    async def run(settings: Settings | None = None) -> AsyncIterator[Scheduler]:
        home = Home(root=tmp_path)
        async with run_scheduler(
            store, [cluster], settings or Settings(), home, ManualClock(1000)
        ) as scheduler:
            yield scheduler

    return run


class SlowKillCluster(MemoryCluster):
    """A cluster whose tasks may take time to end: kills have no effect while `ignores_kills` is set."""

    ignores_kills = False

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        if not self.ignores_kills:
            await super().kill(instance_ids)


class ManualScheduler:
    """A scheduler without loops on an in-memory cluster: the test runs each step.

    Attributes:
        scheduler: the scheduler.
        clock: clock of the scheduler.
        cluster: cluster of the scheduler.
        store: store of the scheduler.
    """

    def __init__(self, scheduler: Scheduler, clock: ManualClock, cluster: SlowKillCluster, store: Store):
        self.scheduler = scheduler
        self.clock = clock
        self.cluster = cluster
        self.store = store

    async def submit(self, *specs: JobSpec, groups: Sequence[Group] = ()) -> None:
        await self.scheduler.submit(specs, groups)

    async def match(self) -> int:
        launched = await match_all(self.scheduler)
        await self.settle()
        return launched

    async def rebalance(self) -> int:
        stopped = await rebalance_all(self.scheduler)
        await self.settle()
        return stopped

    async def settle(self) -> None:
        """Wait until the cluster has reported everything."""
        async with asyncio.timeout(HANG_S):
            while not self.cluster.heard:  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0)

    async def job(self, spec: JobSpec) -> Job:
        (job,) = await self.scheduler.jobs([spec.job_id])
        assert job is not None
        return job

    def where(self) -> dict[JobId, str]:
        """Return the host of each task that runs."""
        return {task.spec.job_id: task.instance.host for task in self.cluster.tasks.values()}

    def task_of(self, spec: JobSpec) -> InstanceId:
        return next(i for i, task in self.cluster.tasks.items() if task.spec.job_id == spec.job_id)

    def users(self) -> list[str]:
        """Return the user of each running task."""
        return sorted(task.spec.user for task in self.cluster.tasks.values())


ManualSchedulerFactory = Callable[..., AbstractAsyncContextManager[ManualScheduler]]


@pytest.fixture
def manual_scheduler(store: Store, tmp_path: Path) -> ManualSchedulerFactory:
    """Run a scheduler manually. It may be entered again with the same cluster, as after a restart."""
    return manual_scheduler_factory(lambda: store, tmp_path)


@pytest.fixture
def fresh_manual_scheduler(tmp_path: Path) -> ManualSchedulerFactory:
    """Run a scheduler manually, with a new store each time unless one is given."""
    return manual_scheduler_factory(MemoryStore, tmp_path)


def manual_scheduler_factory(new_store: Callable[[], Store], home: Path) -> ManualSchedulerFactory:
    """Return a function that runs schedulers manually."""

    @asynccontextmanager
    async def run(
        settings: Settings | None = None,
        *,
        hosts: int = 1,
        cpus: float = 2,
        cluster: SlowKillCluster | None = None,
        pools: Sequence[str] = (DEFAULT_POOL,),
        memory: Store | None = None,
    ) -> AsyncIterator[ManualScheduler]:
        clock = ManualClock(1_000_000)
        resources = {f"h{number}": Resources(cpus=cpus, mem_mb=4096) for number in range(1, hosts + 1)}
        cluster = cluster or SlowKillCluster(
            resources, pools=tuple(map(PoolName, pools)), now_ms=clock.now_ms
        )
        store = memory or new_store()
        async with run_scheduler(
            store, [cluster], settings or Settings(), Home(root=home), clock, start_loops=False
        ) as scheduler:
            yield ManualScheduler(scheduler, clock, cluster, store)

    return run
