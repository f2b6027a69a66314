"""Start and end of a scheduler when its parts fail."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cook_jupyter.clusters.base import ClusterListener, Launch
from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.errors import SchedulerError, StoreFull
from cook_jupyter.model.instance import InstanceId, ProgressUpdate
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.memory import MemoryStore

ONE_HOST = {"h1": Resources(cpus=2, mem_mb=4096)}


class UnreachableCluster(MemoryCluster):
    """A cluster that cannot be reached."""

    async def start(self, listener: ClusterListener, open_launches: Sequence[Launch]) -> None:
        raise SchedulerError(f"{self.name} cannot be reached")


class FullStore(MemoryStore):
    """A store that cannot write progress."""

    async def progress(self, updates: Sequence[ProgressUpdate]) -> Sequence[bool]:
        raise StoreFull("the disk is full")


async def test_a_scheduler_two_of_whose_clusters_fail_raises_the_error_of_the_first(tmp_path: Path) -> None:
    clusters = [UnreachableCluster(ONE_HOST, name=name) for name in ("north", "south")]

    with pytest.raises(SchedulerError, match="cannot be reached"):
        async with run_scheduler(
            MemoryStore(), clusters, Settings(), Home(root=tmp_path), ManualClock()
        ) as scheduler:
            await scheduler.shutdown.wait()


async def test_a_scheduler_ends_in_good_order_though_its_last_progress_cannot_be_stored(
    tmp_path: Path,
) -> None:
    store, cluster = FullStore(), MemoryCluster(ONE_HOST)
    async with run_scheduler(
        store, [cluster], Settings(), Home(root=tmp_path), ManualClock(), start_loops=False
    ) as scheduler:
        scheduler.progress_buffer.note(InstanceId("instance"), 1, percent=50, message=None)
