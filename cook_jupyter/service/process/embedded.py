"""The embedded scheduler of one user on one machine.

Lives here: the choice of its store and its cluster. Not here: starting and stopping them
(`service.process.lifespan`), the lock of the home directory (`service.process.preflight`), HTTP and the
runtime file (`cli`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.payload.keys import read_or_make_key
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.process.lifespan import run_scheduler
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.home import Home
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.sqlite import SqliteStore


@asynccontextmanager
async def run_embedded_scheduler(settings: Settings, home: Home) -> AsyncIterator[Scheduler]:
    """Run a scheduler with a store in SQLite and the node agent of this machine.

    Args:
        settings: settings of the scheduler.
        home: home directory of the scheduler.

    Yields:
        the running scheduler.
    """
    local = settings.local_cluster
    store = SqliteStore(home.store, synchronous=settings.store.synchronous, free=settings.jobs.free_failures)
    cluster = LocalCluster(
        home=home.agent,
        cpus=local.cpus,
        mem_mb=local.mem_mb,
        pools=tuple(pool.name for pool in settings.pools if pool.active),
        kill_grace_s=local.kill_grace_s,
        idle_exit_s=local.agent_idle_exit_s,
    )
    key = read_or_make_key(home.instance_key)
    async with run_scheduler(store, [cluster], settings, home, SystemClock(), instance_key=key) as scheduler:
        yield scheduler
        if scheduler.stop_agent_at_shutdown:
            await cluster.stop_agent()
