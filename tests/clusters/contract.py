"""What every compute cluster promises: one suite, run over each implementation.

A cluster's tests derive a class from `ClusterContract` and say in the fixture `site` how to make one. The
commands are few and plain, so that a simulated cluster can play them too: `true`, `exit N`, `sleep N`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import pytest

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.model.instance import InstanceId, InstanceStatus, TaskState
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import DEFAULT_POOL
from cook_jupyter.model.reason import MAX_RUNTIME_EXCEEDED, NON_ZERO_EXIT, REASONS
from cook_jupyter.model.resources import Resources
from tests.clusters.reports import Reports, a_launch

FOREVER = "sleep 600"


class ClusterHarness(Protocol):
    """Where a cluster stands: a host of at least 2 cpus and 1024 MiB for the pools `default` and `other`.

    There may be more hosts, of either pool. A cluster that can grow can do so in pool `default`.
    """

    def cluster(self) -> ComputeCluster:
        """A cluster that has not been started; a second one is what a restarted scheduler would make."""

    async def settle(self, cluster: ComputeCluster) -> None:
        """End all that runs there."""


class ClusterContract:
    """The promises of `cook_jupyter.clusters.base.ComputeCluster`."""

    @pytest.fixture
    def reports(self) -> Reports:
        return Reports()

    @pytest.fixture
    async def cluster(self, site: ClusterHarness, reports: Reports) -> AsyncIterator[ComputeCluster]:
        cluster = site.cluster()
        await cluster.start(reports, [])
        yield cluster
        await site.settle(cluster)
        await cluster.close()

    # Room

    async def test_an_empty_cluster_offers_each_host_whole_to_each_of_its_pools(
        self, cluster: ComputeCluster
    ) -> None:
        offers = cluster.offers()

        assert {offer.pool for offer in offers} == {"default", "other"}
        assert room_on(offers) == room_on(cluster.capacity())
        assert len(room_on(offers)) == len(offers)
        assert all(offer.cluster == cluster.name for offer in offers)
        assert all(offer.attributes["HOSTNAME"] == offer.host for offer in offers)

    async def test_what_is_known_of_hosts_before_the_start_is_true(
        self, site: ClusterHarness, reports: Reports
    ) -> None:
        cluster = site.cluster()
        before = cluster.capacity()

        await cluster.start(reports, [])

        assert room_on(before).items() <= room_on(cluster.capacity()).items()
        await site.settle(cluster)
        await cluster.close()

    async def test_a_launched_instance_holds_its_room_at_once_in_every_pool(
        self, cluster: ComputeCluster, reports: Reports
    ) -> None:
        before = cluster.offers()
        launch = a_launch(FOREVER, cpus=0.7, mem_mb=300.0)

        await cluster.launch([launch])

        holding = [offer for offer in cluster.offers() if offer.running != Resources()]
        assert {offer.running for offer in holding} == {Resources(cpus=0.7, mem_mb=300.0)}
        assert len({offer.host for offer in holding}) == 1
        assert {offer.pool for offer in holding} == {"default", "other"}
        held = dict.fromkeys(room_on(holding), 0.7)
        assert room_on(cluster.offers()) == {
            place: pytest.approx(room - held.get(place, 0.0)) for place, room in room_on(before).items()
        }

    async def test_room_comes_back_to_the_last_crumb(self, cluster: ComputeCluster, reports: Reports) -> None:
        before = cluster.offers()
        launches = [a_launch("true", cpus=0.1, mem_mb=33.3) for _ in range(10)]

        await cluster.launch(launches)
        for launch in launches:
            await reports.end_of(launch)

        assert {(offer.host, offer.pool, offer.room) for offer in cluster.offers()} == {
            (offer.host, offer.pool, offer.room) for offer in before
        }

    async def test_it_says_when_there_is_room_again(self, cluster: ComputeCluster, reports: Reports) -> None:
        before = reports.room_changes
        launch = a_launch("true")

        await cluster.launch([launch])
        await reports.end_of(launch)

        await reports.until(lambda: reports.room_changes > before)

    async def test_a_cluster_that_can_grow_has_room_in_the_end_for_what_it_was_asked_for(
        self, cluster: ComputeCluster, reports: Reports
    ) -> None:
        before = room_on(cluster.offers())
        most = max(cpus for (_, pool), cpus in before.items() if pool == "default")
        large = a_launch("true", cpus=most + 1.0).spec

        if not cluster.can_grow(DEFAULT_POOL):
            await cluster.grow_for(DEFAULT_POOL, [large])
            assert room_on(cluster.offers()) == before
            return
        await cluster.grow_for(DEFAULT_POOL, [large])
        await reports.until(
            lambda: any(
                large.resources.fits_in(offer.room) for offer in cluster.offers() if offer.pool == "default"
            )
        )

    # Ends

    async def test_success_is_exit_code_0(self, cluster: ComputeCluster, reports: Reports) -> None:
        launch = a_launch("true")

        await cluster.launch([launch])

        end = await reports.end_of(launch)
        assert (end.state, end.exit_code) == (TaskState.FINISHED, 0)

    @pytest.mark.parametrize("code", [1, 2, 126, 127, 255])
    async def test_another_exit_code_is_a_failure_with_that_code(
        self, cluster: ComputeCluster, reports: Reports, code: int
    ) -> None:
        launch = a_launch(f"exit {code}")

        await cluster.launch([launch])

        end = await reports.end_of(launch)
        assert (end.state, end.exit_code, end.reason) == (TaskState.FAILED, code, NON_ZERO_EXIT)

    async def test_each_of_many_ends_once(self, cluster: ComputeCluster, reports: Reports) -> None:
        launches = [a_launch("true", cpus=0.01, mem_mb=1.0) for _ in range(40)]

        await cluster.launch(launches)
        for launch in launches:
            await reports.end_of(launch)

        finals = [update.instance_id for update in reports.updates if update.state.is_final]
        assert sorted(finals) == sorted(launch.instance.instance_id for launch in launches)

    async def test_reports_name_the_cluster(self, cluster: ComputeCluster, reports: Reports) -> None:
        launch = a_launch("true")

        await cluster.launch([launch])

        await reports.end_of(launch)
        assert reports.clusters == {cluster.name}

    async def test_a_long_task_is_said_to_run(self, cluster: ComputeCluster, reports: Reports) -> None:
        launch = a_launch(FOREVER)

        await cluster.launch([launch])

        assert (await reports.running(launch)).state is TaskState.RUNNING

    async def test_what_runs_too_long_is_ended(self, cluster: ComputeCluster, reports: Reports) -> None:
        launch = a_launch(FOREVER, max_runtime_ms=300)

        await cluster.launch([launch])

        end = await reports.end_of(launch)
        assert (end.state, end.reason) == (TaskState.FAILED, MAX_RUNTIME_EXCEEDED)

    # Kills

    async def test_a_kill_comes_back_as_killed(self, cluster: ComputeCluster, reports: Reports) -> None:
        launch = a_launch(FOREVER)
        await cluster.launch([launch])
        await reports.running(launch)

        await cluster.kill([launch.instance.instance_id])

        assert (await reports.end_of(launch)).state is TaskState.KILLED

    async def test_a_kill_right_behind_its_launch_is_not_lost(
        self, cluster: ComputeCluster, reports: Reports
    ) -> None:
        launches = [a_launch(FOREVER, cpus=0.01, mem_mb=1.0) for _ in range(10)]

        await cluster.launch(launches)
        await cluster.kill([launch.instance.instance_id for launch in launches])

        for launch in launches:
            assert (await reports.end_of(launch)).state is TaskState.KILLED

    async def test_killing_twice_or_what_nobody_knows_does_no_harm(
        self, cluster: ComputeCluster, reports: Reports
    ) -> None:
        launch = a_launch("true")
        await cluster.launch([launch])
        await reports.end_of(launch)

        await cluster.kill([launch.instance.instance_id, InstanceId(str(uuid4()))])
        await cluster.kill([launch.instance.instance_id])

        other = a_launch("true")
        await cluster.launch([other])
        assert (await reports.end_of(other)).state is TaskState.FINISHED

    # Restarts of the scheduler

    async def test_what_runs_goes_on_while_no_scheduler_is_there(
        self, site: ClusterHarness, cluster: ComputeCluster, reports: Reports
    ) -> None:
        launch = a_launch(FOREVER)
        await cluster.launch([launch])
        await reports.running(launch)
        await cluster.close()

        async with started(site, [launch]) as (again, heard):
            await heard.running(launch)
            assert held_on(again) == launch.spec.resources
            await again.kill([launch.instance.instance_id])
            assert (await heard.end_of(launch)).state is TaskState.KILLED

    async def test_an_end_that_no_scheduler_heard_is_told_to_the_next(
        self, site: ClusterHarness, cluster: ComputeCluster, reports: Reports
    ) -> None:
        reports.full = True  # however soon the end comes, nobody takes it
        launch = a_launch("sleep 0.3")
        await cluster.launch([launch])
        await cluster.close()

        async with started(site, [launch]) as (_, heard):
            end = await heard.end_of(launch)
            assert (end.state, end.exit_code) == (TaskState.FINISHED, 0)

    async def test_an_end_that_could_not_be_committed_is_told_again(
        self, site: ClusterHarness, cluster: ComputeCluster, reports: Reports
    ) -> None:
        reports.full = True
        launch = a_launch("true")
        await cluster.launch([launch])
        await reports.until(lambda: reports.refusals)
        assert not reports.ends

        reports.full = False

        assert (await reports.end_of(launch)).state is TaskState.FINISHED

    async def test_what_ran_and_is_not_known_any_more_is_lost_by_nobodys_fault(
        self, site: ClusterHarness
    ) -> None:
        launch = a_launch(FOREVER)
        launch = replace(launch, instance=replace(launch.instance, status=InstanceStatus.RUNNING))

        async with started(site, [launch]) as (again, heard):
            end = await heard.end_of(launch)
            assert end.state is TaskState.LOST
            assert end.reason is not None
            assert REASONS[end.reason].mea_culpa
            assert held_on(again) == Resources()

    async def test_what_was_committed_and_not_launched_is_started_or_lost_by_nobodys_fault(
        self, site: ClusterHarness
    ) -> None:
        launch = a_launch("true")

        async with started(site, [launch]) as (again, heard):
            end = await heard.end_of(launch)
            ours = end.reason is not None and REASONS[end.reason].mea_culpa
            assert end.state is TaskState.FINISHED or (end.state is TaskState.LOST and ours)
            assert held_on(again) == Resources()

    async def test_what_nobody_asked_for_is_said_to_run_and_can_be_killed(
        self, site: ClusterHarness, cluster: ComputeCluster, reports: Reports
    ) -> None:
        launch = a_launch(FOREVER)
        await cluster.launch([launch])
        await reports.running(launch)
        await cluster.close()

        async with started(site, []) as (again, heard):
            assert held_on(again).cpus == launch.spec.cpus
            await heard.running(launch)
            await again.kill([launch.instance.instance_id])
            await heard.end_of(launch)
            assert held_on(again) == Resources()


def held_on(cluster: ComputeCluster) -> Resources:
    """What instances hold on all hosts."""
    return sum({offer.host: offer.running for offer in cluster.offers()}.values(), Resources())


def room_on(offers: Sequence[Offer]) -> dict[tuple[str, str], float]:
    """Free cpus by host and pool."""
    return {(offer.host, offer.pool): offer.room.cpus for offer in offers}


class started:  # noqa: N801 - reads as what it gives
    """A cluster as the next scheduler starts it, and what that one hears."""

    def __init__(self, site: ClusterHarness, open_launches: Sequence) -> None:
        self._site = site
        self._open = open_launches

    async def __aenter__(self) -> tuple[ComputeCluster, Reports]:
        self._cluster, heard = self._site.cluster(), Reports()
        await self._cluster.start(heard, self._open)
        return self._cluster, heard

    async def __aexit__(self, *_: object) -> None:
        await self._site.settle(self._cluster)
        await self._cluster.close()
