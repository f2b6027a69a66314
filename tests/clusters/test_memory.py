"""The cluster on paper keeps the promises of the real ones."""

import pytest

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.clusters.memory import MemoryCluster, PlannedExit
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.pool import DEFAULT_POOL, PoolName
from cook_jupyter.model.resources import Resources
from tests.clusters.contract import ClusterContract


def played(spec: JobSpec) -> PlannedExit | None:
    """How a command of the suite ends."""
    match spec.command.split():
        case ["true"]:
            return PlannedExit()
        case ["exit", code]:
            return PlannedExit(exit_code=int(code))
        case ["sleep", seconds]:
            return PlannedExit(after_s=float(seconds))
        case _:
            raise AssertionError(f"the suite has a command that is not played here: {spec.command}")


class MemoryHarness:
    """One cluster, whichever scheduler comes."""

    def __init__(self) -> None:
        self._cluster = MemoryCluster(
            {"host-1": Resources(cpus=4, mem_mb=2048)},
            pools=(DEFAULT_POOL, PoolName("other")),
            behaviour=played,
        )

    def cluster(self) -> ComputeCluster:
        return self._cluster

    async def settle(self, cluster: ComputeCluster) -> None:
        await cluster.kill(list(self._cluster.tasks))


class SpreadSite(MemoryHarness):
    """Hosts that differ by pool and are not known before the start, and one that joins when it is needed."""

    def __init__(self) -> None:
        self._cluster = MemoryCluster(
            {
                "host-1": Resources(cpus=2, mem_mb=1024),
                "host-2": Resources(cpus=4, mem_mb=512),
                "host-3": Resources(cpus=1, mem_mb=4096),
            },
            pools={
                "host-1": [DEFAULT_POOL, PoolName("other")],
                "host-2": [DEFAULT_POOL],
                "host-3": [PoolName("other")],
                "host-4": [DEFAULT_POOL],
            },
            spare_hosts={"host-4": Resources(cpus=16, mem_mb=8192)},
            finds_hosts=True,
            behaviour=played,
        )


class TestMemoryCluster(ClusterContract):
    @pytest.fixture
    def site(self) -> MemoryHarness:
        return MemoryHarness()


class TestMemoryClusterOfUnlikeHosts(ClusterContract):
    @pytest.fixture
    def site(self) -> SpreadSite:
        return SpreadSite()


def test_a_cluster_that_finds_its_hosts_knows_none_before_it_has_started() -> None:
    assert not SpreadSite().cluster().capacity()
