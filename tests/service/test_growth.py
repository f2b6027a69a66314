"""Clusters that can grow are asked for room for jobs that no host has room for; others never are."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from cook_jupyter.errors import SchedulerError
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.service.conftest import ManualSchedulerFactory, SlowKillCluster

SMALL = Resources(cpus=2, mem_mb=4096)


class Growing(SlowKillCluster):
    """A cluster that records the jobs for which it was asked to grow, and may fail to."""

    def __init__(
        self, *, spare: dict[str, Resources] | None = None, name: str = "memory", **hosts: Resources
    ):
        super().__init__(hosts, spare_hosts=spare or {}, name=name, finds_hosts=not hosts)
        self.asked: list[list[str]] = []
        self.fails = False
        self.hangs = False

    async def grow_for(self, pool: PoolName, specs: Sequence[JobSpec]) -> None:
        self.asked.append([spec.job_id for spec in specs])
        if self.fails:
            raise SchedulerError("the provider does not answer")
        if self.hangs:
            await asyncio.Event().wait()
        await super().grow_for(pool, specs)


class Promising(Growing):
    """A cluster that can grow, but has not done so yet."""

    def can_grow(self, pool: PoolName) -> bool:
        return True


async def test_a_job_larger_than_every_host_starts_on_the_host_that_joined_for_it(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    cluster = Growing(h1=SMALL, spare={"h2": Resources(cpus=8, mem_mb=8192)})
    async with manual_scheduler(cluster=cluster) as manual:
        large = a_job_spec(cpus=8.0)
        await manual.submit(large)

        await manual.match()
        await manual.match()

        assert manual.where() == {large.job_id: "h2"}


async def test_a_full_cluster_grows_for_what_waits_behind(manual_scheduler: ManualSchedulerFactory) -> None:
    cluster = Growing(h1=SMALL, spare={"h2": SMALL, "h3": SMALL})
    async with manual_scheduler(cluster=cluster) as manual:
        jobs = [a_job_spec(cpus=2.0) for _ in range(2)]
        await manual.submit(*jobs)
        await manual.match()  # the second finds no host
        await manual.match()
        later = a_job_spec(cpus=2.0)
        await manual.submit(later)
        manual.clock.advance(1000)
        await manual.match()  # nothing is free for any job
        await manual.match()

        assert sorted(manual.where().values()) == ["h1", "h2", "h3"]


async def test_a_cluster_without_any_host_grows_for_the_first_job(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    async with manual_scheduler(cluster=Growing(spare={"h1": SMALL})) as manual:
        job = a_job_spec()
        await manual.submit(job)

        await manual.match()
        await manual.match()

        assert manual.where() == {job.job_id: "h1"}


async def test_room_is_asked_for_once_and_again_for_what_still_waits_after_two_minutes(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    cluster = Promising(h1=SMALL)
    async with manual_scheduler(cluster=cluster) as manual:
        large = a_job_spec(cpus=8.0)
        await manual.submit(large)
        for _ in range(3):
            await manual.match()
            manual.clock.advance(2000)
        assert cluster.asked == [[large.job_id]]

        manual.clock.advance(120_000)
        await manual.match()

        assert cluster.asked == [[large.job_id]] * 2


async def test_a_cluster_that_fails_to_grow_holds_up_nobody_and_is_asked_again(
    manual_scheduler: ManualSchedulerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Promising(h1=SMALL)
    cluster.fails = True
    async with manual_scheduler(cluster=cluster) as manual:
        await manual.submit(a_job_spec(cpus=8.0), a_job_spec())

        assert await manual.match() == 1
        manual.clock.advance(1000)
        await manual.match()

        assert len(cluster.asked) == 2
        assert "the provider does not answer" in caplog.text


async def test_a_cluster_that_does_not_take_a_request_delays_a_cycle_once_and_is_asked_again_later(
    manual_scheduler: ManualSchedulerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Promising(h1=SMALL)
    cluster.hangs = True
    async with manual_scheduler(cluster=cluster) as manual:
        manual.scheduler.growth.timeout_s = 0.01
        large = a_job_spec(cpus=8.0)
        await manual.submit(large, a_job_spec())

        assert await manual.match() == 1
        for _ in range(5):
            manual.clock.advance(2000)
            await manual.match()
        assert cluster.asked == [[large.job_id]]
        assert "did not take a request to grow for 1 jobs within 0.01 s" in caplog.text

        cluster.hangs = False
        manual.clock.advance(30_000)
        await manual.match()

        assert cluster.asked == [[large.job_id]] * 2


async def test_while_a_cluster_is_silent_another_one_grows(tmp_path: Path) -> None:
    silent = Promising(name="silent", h1=SMALL)
    silent.hangs = True
    growing = Promising(name="growing", h2=SMALL)
    clock, home = ManualClock(1000), Home(root=tmp_path)
    async with run_scheduler(
        MemoryStore(), [silent, growing], Settings(), home, clock, start_loops=False
    ) as scheduler:
        scheduler.growth.timeout_s = 0.01
        jobs = [a_job_spec(cpus=8.0) for _ in range(10)]
        await scheduler.submit(jobs)
        for _ in range(2):
            await match_all(scheduler)
            clock.advance(2000)

        asked = {job_id for job_ids in growing.asked for job_id in job_ids}
        assert len(silent.asked) == 1
        assert asked == {job.job_id for job in jobs}


async def test_a_job_above_its_users_quota_is_no_reason_to_grow(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    cluster = Promising(h1=SMALL)
    async with manual_scheduler(cluster=cluster) as manual:
        await manual.scheduler.set_limits("quota", "ada", DEFAULT_POOL, {"cpus": 2.0}, "a test")
        await manual.submit(*(a_job_spec(cpus=2.0) for _ in range(3)))

        for _ in range(2):
            await manual.match()
            manual.clock.advance(1000)

        assert not cluster.asked


async def test_of_several_clusters_only_those_that_can_grow_are_asked(tmp_path: Path) -> None:
    fixed = Growing(name="fixed", h1=SMALL)
    growing = Growing(name="growing", spare={"h2": Resources(cpus=8, mem_mb=8192)}, h3=SMALL)
    clock, home = ManualClock(1000), Home(root=tmp_path)
    async with run_scheduler(
        MemoryStore(), [fixed, growing], Settings(), home, clock, start_loops=False
    ) as scheduler:
        large = a_job_spec(cpus=8.0)
        await scheduler.submit([large])
        await match_all(scheduler)

        assert growing.asked == [[large.job_id]]
        assert not fixed.asked
