"""Two clusters of one scheduler: instances survive its restart, checkpointed jobs return to a location."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.clusters.simulated import SimulatedCluster
from cook_jupyter.model.instance import InstanceId, InstanceStatus, ProgressUpdate, StatusUpdate, TaskState
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, Pool, PoolName
from cook_jupyter.model.reason import PREEMPTED
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cluster_updates import ClusterUpdates
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.stop_instances import stop_instances
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import CompletionSettings, PlacementSettings
from cook_jupyter.store.base import Failure
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec
from tests.service.conftest import ManualSchedulerFactory, SlowKillCluster

NOW_S = 1_000_000


class Recorded(SimulatedCluster):
    """A cluster that records the kills that it receives."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.asked_to_kill: list[InstanceId] = []

    async def kill(self, instance_ids: Sequence[InstanceId]) -> None:
        self.asked_to_kill += instance_ids
        await super().kill(instance_ids)


def a_host(name: str, *, location: str | None = None, age_s: int = 0) -> Offer:
    attributes = {"HOSTNAME": name, "host-start-time": str(NOW_S - age_s)}
    room = Resources(cpus=4.0, mem_mb=4096.0)
    return Offer(
        host=name, cluster="", pool=PoolName(""), room=room, attributes=attributes, location=location
    )


@asynccontextmanager
async def run_scheduler_on(home: Path, settings: Settings, **hosts: list[Offer]) -> AsyncIterator[Scheduler]:
    """Run a scheduler manually on clusters with given names."""
    clock = ManualClock(NOW_S * 1000)
    clusters = [
        Recorded(some, name=name, behaviour=lambda _: None, now_ms=clock.now_ms)
        for name, some in hosts.items()
    ]
    async with run_scheduler(
        MemoryStore(), clusters, settings, Home(root=home), clock, start_loops=False
    ) as scheduler:
        yield scheduler


async def ran_on(scheduler: Scheduler, spec: JobSpec) -> list[str]:
    (job,) = await scheduler.jobs([spec.job_id])
    assert job is not None
    return [instance.host for instance in job.instances]


async def killed(scheduler: Scheduler, spec: JobSpec) -> None:
    """Kill the running instance of a job, which is then tried again."""
    row = scheduler.running_job(spec.job_id)
    assert row is not None
    await scheduler.cancel_instances([row.instance_id])
    for cluster in scheduler.clusters.values():
        assert isinstance(cluster, SimulatedCluster)
        await cluster.deliver()


async def test_a_job_goes_to_a_host_that_lives_until_it_ends(tmp_path: Path) -> None:
    placement = PlacementSettings(completion=CompletionSettings(host_lifetime_ms=3_600_000, grace_ms=0))
    hosts = [a_host("old", age_s=3000), a_host("young", age_s=60)]
    async with run_scheduler_on(tmp_path, Settings(placement=placement), one=hosts) as scheduler:
        brief = a_job_spec(expected_runtime_ms=60_000)
        long = a_job_spec(expected_runtime_ms=1_800_000)
        await scheduler.submit([brief, long])
        await match_all(scheduler)

        assert await ran_on(scheduler, brief) == ["old"]
        assert await ran_on(scheduler, long) == ["young"]


async def test_a_job_with_a_checkpoint_returns_to_where_it_lies(tmp_path: Path) -> None:
    east = [a_host("a1", location="east"), a_host("b2", location="east")]
    west = [a_host("a2", location="west"), a_host("b1", location="west")]
    async with run_scheduler_on(tmp_path, Settings(), east=east, west=west) as scheduler:
        kept = a_job_spec(max_retries=5, extra={"checkpoint": {"mode": "auto"}})
        free = a_job_spec(max_retries=5, priority=90)
        await scheduler.submit([kept, free])
        await match_all(scheduler)
        for spec in (kept, free):
            await killed(scheduler, spec)
        await match_all(scheduler)

        assert await ran_on(scheduler, kept) == ["a1", "b2"]
        assert await ran_on(scheduler, free) == ["a1", "a2"]


@asynccontextmanager
async def one_job_each(
    home: Path,
) -> AsyncIterator[tuple[Scheduler, Recorded, Recorded, InstanceId, JobSpec]]:
    """Run a job on each of two clusters; also yield the instance in the first cluster, and its job."""
    async with run_scheduler_on(home, Settings(), one=[a_host("a")], two=[a_host("b")]) as scheduler:
        specs = [a_job_spec(cpus=4.0), a_job_spec(cpus=4.0)]
        await scheduler.submit(specs)
        await match_all(scheduler)
        one, two = scheduler.clusters.values()
        assert isinstance(one, Recorded)
        assert isinstance(two, Recorded)
        (instance_id,) = one.tasks
        [spec] = [spec for spec in specs if await ran_on(scheduler, spec) == ["a"]]
        yield scheduler, one, two, instance_id, spec


async def kill_job(scheduler: Scheduler, spec: JobSpec, instance_id: InstanceId) -> None:
    await scheduler.kill_jobs([spec.job_id])


async def cancel(scheduler: Scheduler, spec: JobSpec, instance_id: InstanceId) -> None:
    await scheduler.cancel_instances([instance_id])


async def preempt(scheduler: Scheduler, spec: JobSpec, instance_id: InstanceId) -> None:
    failure = Failure(job_id=spec.job_id, instance_id=instance_id, reason=PREEMPTED, at_ms=1)
    await stop_instances(scheduler, [failure])


@pytest.mark.parametrize("way", [kill_job, cancel, preempt])
async def test_a_kill_goes_to_the_cluster_that_the_instance_names_and_to_no_other(
    tmp_path: Path, way: Any
) -> None:
    async with one_job_each(tmp_path) as (scheduler, one, two, instance_id, spec):
        await way(scheduler, spec, instance_id)
        await scheduler.kills.repeat()

        assert set(one.asked_to_kill) == {instance_id}
        assert not two.asked_to_kill
        await one.deliver()
        assert not scheduler.kills


async def test_a_report_of_another_clusters_instance_changes_nothing(tmp_path: Path) -> None:
    async with one_job_each(tmp_path) as (scheduler, one, two, instance_id, spec):
        updates = ClusterUpdates(scheduler)
        await updates.report("one", [StatusUpdate(instance_id=instance_id, state=TaskState.RUNNING, at_ms=1)])

        await updates.report("two", [StatusUpdate(instance_id=instance_id, state=TaskState.LOST, at_ms=2)])
        await updates.progress("two", [ProgressUpdate(instance_id=instance_id, sequence=1, percent=50)])

        (job,) = await scheduler.jobs([spec.job_id])
        assert job is not None
        assert job.instances[0].status is InstanceStatus.RUNNING
        assert not job.instances[0].progress
        assert not one.asked_to_kill + two.asked_to_kill


async def test_what_a_cluster_runs_that_should_not_run_there_is_killed_there_alone(tmp_path: Path) -> None:
    async with one_job_each(tmp_path) as (scheduler, one, two, instance_id, _):
        updates = ClusterUpdates(scheduler)

        for found in (instance_id, InstanceId("never launched")):
            await updates.report("two", [StatusUpdate(instance_id=found, state=TaskState.RUNNING, at_ms=1)])

        assert two.asked_to_kill == [instance_id, "never launched"]
        assert not one.asked_to_kill


async def test_an_instance_that_should_not_run_is_killed_until_its_end_is_reported(tmp_path: Path) -> None:
    stray = InstanceId("never launched")
    async with one_job_each(tmp_path) as (scheduler, one, two, _, _):
        updates = ClusterUpdates(scheduler)
        await updates.report("two", [StatusUpdate(instance_id=stray, state=TaskState.RUNNING, at_ms=1)])
        await scheduler.kills.repeat()

        assert two.asked_to_kill == [stray, stray]
        await updates.report("two", [StatusUpdate(instance_id=stray, state=TaskState.KILLED, at_ms=2)])
        await scheduler.kills.repeat()

        assert two.asked_to_kill == [stray, stray]
        assert not one.asked_to_kill


@pytest.mark.parametrize(
    ("states", "is_killed"),
    [
        ([TaskState.LOST, TaskState.RUNNING], True),  # the host could not be reached for a while
        ([TaskState.RUNNING, TaskState.LOST], False),
        ([TaskState.LOST, TaskState.RUNNING, TaskState.KILLED], False),
    ],
)
async def test_an_instance_that_runs_after_its_end_in_the_same_report_is_killed(
    tmp_path: Path, states: list[TaskState], is_killed: bool
) -> None:
    async with one_job_each(tmp_path) as (scheduler, one, _, instance_id, _):
        await ClusterUpdates(scheduler).report(
            "one", [StatusUpdate(instance_id=instance_id, state=state, at_ms=1) for state in states]
        )

        assert one.asked_to_kill == [instance_id] * is_killed
        assert (instance_id in scheduler.kills) == is_killed


async def test_hosts_that_are_known_only_after_the_start_are_used_each_in_its_pools(
    manual_scheduler: ManualSchedulerFactory,
) -> None:
    cluster = SlowKillCluster(
        {"h1": Resources(cpus=2, mem_mb=4096), "h2": Resources(cpus=4, mem_mb=4096)},
        pools={"h1": [DEFAULT_POOL], "h2": [PoolName("large")]},
        finds_hosts=True,
    )
    async with manual_scheduler(
        Settings(pools=(Pool(name=DEFAULT_POOL), Pool(name=PoolName("large")))), cluster=cluster
    ) as manual:
        small, large = a_job_spec(), a_job_spec(cpus=4.0, pool="large")
        misplaced = a_job_spec(cpus=4.0)
        await manual.submit(small, large, misplaced)

        await manual.match()

        assert manual.where() == {small.job_id: "h1", large.job_id: "h2"}
