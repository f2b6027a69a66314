"""The cluster on paper keeps the promises of the real ones."""

import pytest

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.clusters.memory import Ending, MemoryCluster
from cook_jupyter.model.job import JobSpec
from cook_jupyter.model.resources import Resources
from tests.clusters.contract import ClusterContract


def played(spec: JobSpec) -> Ending | None:
    """How a command of the suite ends."""
    match spec.command.split():
        case ["true"]:
            return Ending()
        case ["exit", code]:
            return Ending(exit_code=int(code))
        case ["sleep", seconds]:
            return Ending(after_s=float(seconds))
        case _:
            raise AssertionError(f"the suite has a command that is not played here: {spec.command}")


class PaperSite:
    """One cluster, whichever scheduler comes."""

    def __init__(self) -> None:
        self._cluster = MemoryCluster(
            {"host-1": Resources(cpus=4, mem_mb=2048)}, pools=("default", "other"), behaviour=played
        )

    def cluster(self) -> ComputeCluster:
        return self._cluster

    async def settle(self, cluster: ComputeCluster) -> None:
        await cluster.kill(list(self._cluster.tasks))


class TestMemoryCluster(ClusterContract):
    @pytest.fixture
    def site(self) -> PaperSite:
        return PaperSite()
