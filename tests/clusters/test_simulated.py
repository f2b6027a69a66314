"""The simulated cluster keeps the promises of the real ones; a task beside it turns its time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.clusters.simulated import ScheduledExit, SimulatedCluster
from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.reason import NON_ZERO_EXIT
from cook_jupyter.model.resources import Resources
from tests.clusters.contract import ClusterContract
from tests.clusters.reports import Reports, a_launch


def played(spec: JobSpec) -> ScheduledExit | None:
    """How a command of the suite ends."""
    match spec.command.split():
        case ["true"]:
            return ScheduledExit(0, exit_code=0)
        case ["exit", code]:
            return ScheduledExit(0, TaskState.FAILED, NON_ZERO_EXIT, int(code))
        case ["sleep", seconds]:
            return ScheduledExit(int(float(seconds) * 1000), exit_code=0)
        case _:
            raise AssertionError(f"the suite has a command that is not played here: {spec.command}")


def a_host(name: str = "host-1", *, pool: str = "", **room: float) -> Offer:
    return Offer(
        host=name, cluster="", pool=PoolName(pool), room=Resources(**{"cpus": 4.0, "mem_mb": 2048.0, **room})
    )


class SimulatedHarness:
    """One cluster, whichever scheduler comes, and somebody who turns its clock with the real one."""

    def __init__(self) -> None:
        self._cluster = SimulatedCluster(
            [a_host(), a_host("host-2", pool="default"), a_host("host-3", pool="other")],
            behaviour=played,
            now_ms=lambda: time.monotonic_ns() // 1_000_000,
            pools=(DEFAULT_POOL, PoolName("other")),
        )

    def cluster(self) -> ComputeCluster:
        return self._cluster

    async def settle(self, cluster: ComputeCluster) -> None:
        await cluster.kill(list(self._cluster.tasks))

    async def turn_for_ever(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._cluster.process_due()
            await asyncio.sleep(0.005)


class TestSimulatedCluster(ClusterContract):
    @pytest.fixture
    async def site(self) -> AsyncIterator[SimulatedHarness]:
        site = SimulatedHarness()
        turning = asyncio.create_task(site.turn_for_ever())
        yield site
        turning.cancel()


class ManualCluster:
    """A cluster of two hosts and its clock."""

    def __init__(self, *, reports_starts: bool = True) -> None:
        self.now_ms = 1000
        self.cluster = SimulatedCluster(
            [a_host("host-1"), a_host("host-2", cpus=2.0)],
            behaviour=played,
            now_ms=lambda: self.now_ms,
            reports_starts=reports_starts,
        )
        self.reports = Reports()


@pytest.fixture
async def by_hand() -> ManualCluster:
    site = ManualCluster()
    await site.cluster.start(site.reports, [])
    return site


async def test_a_task_ends_when_its_time_is_past_and_not_a_millisecond_sooner(by_hand: ManualCluster) -> None:
    launch = a_launch("sleep 0.5", max_runtime_ms=500)
    await by_hand.cluster.launch([launch])

    by_hand.now_ms = 1500
    assert await by_hand.cluster.process_due() == 0
    by_hand.now_ms = 1501
    assert await by_hand.cluster.process_due() == 1

    end = by_hand.reports.ends[launch.instance.instance_id]
    assert (end.state, end.at_ms, end.began_ms) == (TaskState.FINISHED, 1501, 1000)


async def test_nothing_ends_while_nobody_turns(by_hand: ManualCluster) -> None:
    launch = a_launch("true")
    await by_hand.cluster.launch([launch])
    by_hand.now_ms = 10_000

    await by_hand.cluster.deliver()

    assert by_hand.reports.states[launch.instance.instance_id] == [TaskState.RUNNING]


async def test_hosts_that_nothing_happened_on_keep_their_offers(by_hand: ManualCluster) -> None:
    before = list(by_hand.cluster.offers())
    await by_hand.cluster.launch([a_launch("sleep 5")])

    after = by_hand.cluster.offers()

    assert [one is other for one, other in zip(before, after, strict=True)] == [False, True]
    assert before[0].room.cpus == 4.0  # what was handed out is not changed


async def test_starts_that_are_not_told_come_with_the_end_or_when_asked_for() -> None:
    site = ManualCluster(reports_starts=False)
    await site.cluster.start(site.reports, [])
    brief, long = a_launch("sleep 0.1"), a_launch("sleep 99")
    await site.cluster.launch([brief, long])
    assert not site.reports.updates

    site.now_ms = 2000
    await site.cluster.process_due()
    await site.cluster.report_running()

    told = [(u.instance_id, u.state, u.at_ms, u.began_ms) for u in site.reports.updates]
    assert told == [
        (brief.instance.instance_id, TaskState.FINISHED, 2000, 1000),
        (long.instance.instance_id, TaskState.RUNNING, 1000, None),
    ]


async def test_a_killed_task_frees_its_room_at_once(by_hand: ManualCluster) -> None:
    launch = a_launch("sleep 99", cpus=4.0, ports=2)
    await by_hand.cluster.launch([launch])
    assert by_hand.cluster.offers()[0].room.cpus == 0.0

    await by_hand.cluster.kill([launch.instance.instance_id])

    assert by_hand.cluster.offers()[0].room.cpus == 4.0
    assert not by_hand.cluster.tasks
