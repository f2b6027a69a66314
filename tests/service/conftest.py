"""A living scheduler for the tests of this floor: memory below, hosts on paper, a clock by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import Group, Job, JobId, JobSpec
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

Living = Callable[..., AbstractAsyncContextManager[Scheduler]]


@pytest.fixture
def cluster() -> MemoryCluster:
    """One host of two cpus."""
    return MemoryCluster({"h1": Resources(cpus=2, mem_mb=4096)})


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def living(store: Store, cluster: MemoryCluster, tmp_path: Path) -> Living:
    """Run a scheduler over `store` and `cluster`; may be entered again, as after a restart."""

    @asynccontextmanager
    async def run(settings: Settings | None = None) -> AsyncIterator[Scheduler]:
        home = Home(root=tmp_path)
        async with run_scheduler(
            store, [cluster], settings or Settings(), home, ManualClock(1000)
        ) as scheduler:
            yield scheduler

    return run


class SlowToEnd(MemoryCluster):
    """Hosts whose tasks take their time to end: while `deaf`, kills have no effect yet."""

    deaf = False

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        if not self.deaf:
            await super().kill(instance_ids)


class ManualScheduler:
    """A scheduler none of whose loops run, on hosts on paper: a test takes each step itself.

    Attributes:
        scheduler: it.
        clock: its time.
        cluster: its hosts.
        store: its memory.
    """

    def __init__(self, scheduler: Scheduler, clock: ManualClock, cluster: SlowToEnd, store: Store):
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
        """Wait until the cluster has told all that it has to tell."""
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
        """Return whose tasks run."""
        return sorted(task.spec.user for task in self.cluster.tasks.values())


HandTurned = Callable[..., AbstractAsyncContextManager[ManualScheduler]]


@pytest.fixture
def by_hand(store: Store, tmp_path: Path) -> HandTurned:
    """Run a scheduler by hand; may be entered again with the same cluster, as after a restart."""
    return hand_turned(lambda: store, tmp_path)


@pytest.fixture
def fresh_by_hand(tmp_path: Path) -> HandTurned:
    """The same with a new memory each time, unless one is given."""
    return hand_turned(MemoryStore, tmp_path)


def hand_turned(remember: Callable[[], Store], home: Path) -> HandTurned:
    """Make what runs schedulers by hand."""

    @asynccontextmanager
    async def run(
        settings: Settings | None = None,
        *,
        hosts: int = 1,
        cpus: float = 2,
        cluster: SlowToEnd | None = None,
        pools: Sequence[str] = ("default",),
        memory: Store | None = None,
    ) -> AsyncIterator[ManualScheduler]:
        clock = ManualClock(1_000_000)
        there = {f"h{number}": Resources(cpus=cpus, mem_mb=4096) for number in range(1, hosts + 1)}
        used = cluster or SlowToEnd(there, pools=pools, now_ms=clock.now_ms)
        kept = memory or remember()
        place = Home(root=home)
        async with run_scheduler(
            kept, [used], settings or Settings(), place, clock, start_loops=False
        ) as scheduler:
            yield ManualScheduler(scheduler, clock, used, kept)

    return run
