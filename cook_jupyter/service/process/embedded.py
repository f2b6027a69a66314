"""The embedded scheduler: one user's own, on one machine.

Lives here: which store and cluster it has. Not here: its life (`service.process.lifespan`), the lock of its
home (`service.process.preflight`); HTTP and the runtime file, which are the roof's (`cli`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.payload.keys import read_or_make_key
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.process.lifespan import alive
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.sqlite import SqliteStore


@asynccontextmanager
async def embedded(settings: Settings, home: Home) -> AsyncIterator[Scheduler]:
    """Run a scheduler on this machine alone: SQLite below, the local node agent beside."""
    store = SqliteStore(home.store, synchronous=settings.store.synchronous, free=settings.jobs.free_failures)
    cluster = LocalCluster(
        home=home.agent,
        cpus=settings.local_cluster.cpus,
        mem_mb=settings.local_cluster.mem_mb,
        pools=tuple(pool.name for pool in settings.pools if pool.active),
        kill_grace_s=settings.local_cluster.kill_grace_s,
        idle_exit_s=settings.local_cluster.agent_idle_exit_s,
    )
    key = read_or_make_key(home.instance_key)
    async with alive(store, [cluster], settings, home, SystemClock(), instance_key=key) as scheduler:
        yield scheduler
        if scheduler.stop_agent_at_shutdown:
            await cluster.stop_agent()
