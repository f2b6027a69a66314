"""Two clusters under one scheduler: hosts that live on, and places that jobs with checkpoints return to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cook_jupyter.clusters.simulated import SimulatedCluster
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.cycles import match_all
from cook_jupyter.service.policies import CompletionSettings, PlacementSettings
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.start import alive
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec

NOW_S = 1_000_000


def a_host(name: str, *, location: str | None = None, age_s: int = 0) -> Offer:
    attributes = {"HOSTNAME": name, "host-start-time": str(NOW_S - age_s)}
    room = Resources(cpus=4.0, mem_mb=4096.0)
    return Offer(host=name, cluster="", pool="", room=room, attributes=attributes, location=location)


@asynccontextmanager
async def living_on(home: Path, settings: Settings, **hosts: list[Offer]) -> AsyncIterator[Scheduler]:
    """Run a scheduler by hand, on clusters of these names."""
    clock = ManualClock(NOW_S * 1000)
    clusters = [
        SimulatedCluster(some, name=name, behaviour=lambda _: None, now_ms=clock.now_ms)
        for name, some in hosts.items()
    ]
    async with alive(MemoryStore(), clusters, settings, Home(root=home), clock, by_hand=True) as scheduler:
        yield scheduler


async def ran_on(scheduler: Scheduler, spec: JobSpec) -> list[str]:
    (job,) = await scheduler.jobs([spec.job_id])
    assert job is not None
    return [instance.host for instance in job.instances]


async def killed(scheduler: Scheduler, spec: JobSpec) -> None:
    """Kill what runs of a job; it tries again."""
    row = scheduler.running_row(spec.job_id)
    assert row is not None
    await scheduler.cancel_instances([row.instance_id])
    for cluster in scheduler.clusters.values():
        assert isinstance(cluster, SimulatedCluster)
        await cluster.deliver()


async def test_a_job_goes_to_a_host_that_lives_until_it_ends(tmp_path: Path) -> None:
    placement = PlacementSettings(completion=CompletionSettings(host_lifetime_ms=3_600_000, grace_ms=0))
    hosts = [a_host("old", age_s=3000), a_host("young", age_s=60)]
    async with living_on(tmp_path, Settings(placement=placement), one=hosts) as scheduler:
        brief = a_job_spec(expected_runtime_ms=60_000)
        long = a_job_spec(expected_runtime_ms=1_800_000)
        await scheduler.submit([brief, long])
        await match_all(scheduler)

        assert await ran_on(scheduler, brief) == ["old"]
        assert await ran_on(scheduler, long) == ["young"]


async def test_a_job_with_a_checkpoint_returns_to_where_it_lies(tmp_path: Path) -> None:
    east = [a_host("a1", location="east"), a_host("b2", location="east")]
    west = [a_host("a2", location="west"), a_host("b1", location="west")]
    async with living_on(tmp_path, Settings(), east=east, west=west) as scheduler:
        kept = a_job_spec(max_retries=5, extra={"checkpoint": {"mode": "auto"}})
        free = a_job_spec(max_retries=5, priority=90)
        await scheduler.submit([kept, free])
        await match_all(scheduler)
        for spec in (kept, free):
            await killed(scheduler, spec)
        await match_all(scheduler)

        assert await ran_on(scheduler, kept) == ["a1", "b2"]
        assert await ran_on(scheduler, free) == ["a1", "a2"]
