"""A living scheduler for the tests of this floor: memory below, hosts on paper, a clock by hand."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cook_jupyter.clusters.memory import MemoryCluster
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import ManualClock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.start import alive
from cook_jupyter.store.memory import MemoryStore

Living = Callable[..., AbstractAsyncContextManager[Scheduler]]


@pytest.fixture
def cluster() -> MemoryCluster:
    """One host of two cpus."""
    return MemoryCluster({"h1": Resources(cpus=2, mem_mb=4096)})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def living(store: MemoryStore, cluster: MemoryCluster, tmp_path: Path) -> Living:
    """Run a scheduler over `store` and `cluster`; may be entered again, as after a restart."""

    @asynccontextmanager
    async def run(settings: Settings | None = None) -> AsyncIterator[Scheduler]:
        home = Home(root=tmp_path)
        async with alive(store, [cluster], settings or Settings(), home, ManualClock(1000)) as scheduler:
            yield scheduler

    return run
