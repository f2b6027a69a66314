"""The scheduler of a settings file, by default the embedded one of one user on one machine.

Lives here: the choice of its store. Not here: its clusters (`service.process.clusters`), starting and
stopping them (`service.process.lifespan`), the lock of the home directory (`service.process.preflight`),
HTTP and the runtime file (`cli`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.payload.keys import read_or_make_key
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.process.clusters import build_clusters
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.sqlite import SqliteStore


@asynccontextmanager
async def run_embedded_scheduler(settings: Settings, home: Home) -> AsyncIterator[Scheduler]:
    """Run a scheduler with a store in SQLite and the clusters of its settings.

    Args:
        settings: settings of the scheduler.
        home: home directory of the scheduler.

    Yields:
        the running scheduler.
    """
    store = SqliteStore(home.store, synchronous=settings.store.synchronous, free=settings.jobs.free_failures)
    clusters = build_clusters(settings, home, store)
    key = read_or_make_key(home.instance_key)
    async with run_scheduler(store, clusters, settings, home, SystemClock(), instance_key=key) as scheduler:
        yield scheduler
        if scheduler.stop_agent_at_shutdown:
            for cluster in clusters:
                if isinstance(cluster, LocalCluster):
                    await cluster.stop_agent()
