"""Offers for a time or for some users, from the cluster to the instance."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cook_jupyter.clusters.simulated import SimulatedCluster
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.cycles.match_cycle import match_all
from cook_jupyter.service.cycles.rebalance_cycle import rebalance_all
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.requests.dumps import read_dump, replay_dump
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.memory import MemoryStore
from tests.builders import a_job_spec

NOW_MS = 1_000_000


def a_host(name: str, **fields: Any) -> Offer:
    return Offer(host=name, cluster="", pool=PoolName(""), room=Resources(cpus=2, mem_mb=4096), **fields)


class SilentWhenFull(SimulatedCluster):
    """A cluster that makes no offers of full hosts, as Mesos does."""

    def offers(self) -> Sequence[Offer]:
        return [offer for offer in super().offers() if offer.room.cpus]


@asynccontextmanager
async def run_scheduler_on(
    home: Path, *hosts: Offer, kind: type[SimulatedCluster] = SimulatedCluster, **settings: Any
) -> AsyncIterator[Scheduler]:
    """Run a scheduler manually on some hosts, where no instance ends by itself."""
    clock = ManualClock(NOW_MS)
    cluster = kind(hosts, behaviour=lambda _: None, now_ms=clock.now_ms)
    running = run_scheduler(
        MemoryStore(), [cluster], Settings(**settings), Home(root=home), clock, start_loops=False
    )
    async with running as scheduler:
        yield scheduler


async def host_of(scheduler: Scheduler, spec: JobSpec) -> str | None:
    (job,) = await scheduler.jobs([spec.job_id])
    assert job is not None
    return None if job.open_instance is None else job.open_instance.host


async def test_each_job_goes_where_its_user_and_its_run_time_may(tmp_path: Path) -> None:
    hosts = [a_host("brief", until_ms=NOW_MS + 60_000), a_host("grace's", users=frozenset({"grace"}))]
    async with run_scheduler_on(tmp_path, *hosts) as scheduler:
        bounded = a_job_spec(cpus=2.0, max_runtime_ms=60_000)
        unbounded = a_job_spec(cpus=2.0)
        graces = a_job_spec(cpus=2.0, user="grace")
        await scheduler.submit([unbounded, bounded, graces])

        await match_all(scheduler)

        assert await host_of(scheduler, bounded) == "brief"
        assert await host_of(scheduler, graces) == "grace's"
        assert await host_of(scheduler, unbounded) is None
        told = " ".join(await scheduler.explain(unbounded.job_id))
        assert "for other users alone" in told


@pytest.mark.parametrize("kind", [SimulatedCluster, SilentWhenFull])
@pytest.mark.parametrize(("users", "stopped"), [({"ada"}, 0), ({"ada", "grace"}, 1)])
async def test_others_are_preempted_for_a_job_only_where_it_may_start(
    tmp_path: Path, kind: type[SimulatedCluster], users: set[str], stopped: int
) -> None:
    async with run_scheduler_on(tmp_path, a_host("h1", users=frozenset(users)), kind=kind) as scheduler:
        await scheduler.submit([a_job_spec() for _ in range(2)])
        await match_all(scheduler)
        await scheduler.set_limits("share", "ada", DEFAULT_POOL, {"cpus": 0.5, "mem": 100.0}, "a test")
        await scheduler.submit([a_job_spec(user="grace")])

        await match_all(scheduler)

        assert await rebalance_all(scheduler) == stopped


async def test_no_room_is_kept_for_a_job_where_it_may_not_start(tmp_path: Path) -> None:
    async with run_scheduler_on(tmp_path, a_host("ada's", users=frozenset({"ada"}))) as scheduler:
        first, large = a_job_spec(), a_job_spec(user="grace", cpus=2.0)
        await scheduler.submit([first])
        await match_all(scheduler)
        await scheduler.submit([large])
        await match_all(scheduler)
        small = a_job_spec()
        await scheduler.submit([small])

        await match_all(scheduler)

        assert await host_of(scheduler, small) == "ada's"


async def test_a_dump_keeps_for_whom_and_until_when_hosts_are_offered(tmp_path: Path) -> None:
    hosts = [a_host("ada's", users=frozenset({"ada"})), a_host("brief", until_ms=NOW_MS + 60_000)]
    async with run_scheduler_on(tmp_path, *hosts, kind=SilentWhenFull) as scheduler:
        await scheduler.submit([a_job_spec() for _ in range(2)])
        await match_all(scheduler)
        await scheduler.set_limits("share", "ada", DEFAULT_POOL, {"cpus": 0.5, "mem": 100.0}, "a test")
        unbounded = a_job_spec(user="grace")
        bounded = a_job_spec(user="grace", max_runtime_ms=60_000)
        await scheduler.submit([unbounded, bounded])

        again = replay_dump(read_dump(await scheduler.dump(DEFAULT_POOL, [unbounded.job_id])))

        assert [(match.job_id, match.host) for match in again.match.matches] == [(bounded.job_id, "brief")]
        assert list(again.why[unbounded.job_id]) == list(await scheduler.why(unbounded.job_id))
        assert not [preemption for preemption in again.rebalance.preemptions if preemption.victims]
