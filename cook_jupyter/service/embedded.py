"""The embedded scheduler: one user's own, on one machine.

Lives here: which store and cluster it has, and the lock that keeps two of them out of one home.
Not here: its life (`service.start`); HTTP and the runtime file, which are the roof's (`cli`).
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.errors import Conflict
from cook_jupyter.service.clock import SystemClock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.start import alive
from cook_jupyter.store.sqlite import SqliteStore


@contextmanager
def sole_owner(home: Home) -> Iterator[None]:
    """Hold the home's lock; it is let go when this process ends, however it ends.

    Raises:
        Conflict: another scheduler runs in this home.
    """
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"a scheduler runs already in {home.root}: `cook-jupyter status` shows it,"
                " `cook-jupyter down` ends it"
            ) from error
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def embedded(settings: Settings, home: Home) -> AsyncIterator[Scheduler]:
    """Run a scheduler on this machine alone: SQLite below, the local node agent beside."""
    store = SqliteStore(home.store, synchronous=settings.synchronous)
    cluster = LocalCluster(
        home=home.agent,
        cpus=settings.cpus,
        mem_mb=settings.mem_mb,
        pools=tuple(pool.name for pool in settings.pools if pool.active),
        kill_grace_s=settings.kill_grace_s,
        idle_exit_s=settings.agent_idle_exit_s,
    )
    async with alive(store, [cluster], settings, home, SystemClock()) as scheduler:
        yield scheduler
        if scheduler.stop_agent_at_shutdown:
            await cluster.stop_agent()
