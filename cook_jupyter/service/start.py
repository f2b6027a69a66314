"""From settings to a living scheduler: store, clusters and loops under one task group.

Lives here: `alive`, and the lock that keeps two schedulers out of one home. Not here: HTTP and
the runtime file, which are the roof's (`cli`).
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from cook_jupyter.clusters.base import ComputeCluster, Launch
from cook_jupyter.clusters.local.cluster import LocalCluster
from cook_jupyter.errors import Conflict
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import Clock, SystemClock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.cycles import kill_loop, match_loop
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import Updates
from cook_jupyter.store.base import Store
from cook_jupyter.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0


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


@asynccontextmanager
async def alive(
    store: Store, clusters: Sequence[ComputeCluster], settings: Settings, home: Home, clock: Clock
) -> AsyncIterator[Scheduler]:
    """Open the store, recover, start the clusters and the loops; end them all on exit."""
    await store.open()
    try:
        scheduler = Scheduler(
            store=store,
            clusters=clusters,
            settings=_with_shares(settings, clusters),
            clock=clock,
            blobs=home.blobs,
        )
        open_instances = await scheduler.recover()
        updates = Updates(scheduler)

        async def start_cluster(cluster: ComputeCluster) -> None:
            launches = [
                Launch(spec=spec, instance=instance)
                for spec, instance in open_instances.pop(cluster.name, [])
            ]
            await cluster.start(updates, launches)
            await scheduler.repeat_kills()
            scheduler.wake.set()

        async with asyncio.TaskGroup() as tasks:
            starting = [tasks.create_task(start_cluster(cluster)) for cluster in clusters]
            loops = [
                tasks.create_task(_supervised(match_loop, scheduler)),
                tasks.create_task(_supervised(kill_loop, scheduler)),
            ]
            try:
                yield scheduler
            finally:
                for task in (*starting, *loops):
                    task.cancel()
                scheduler.hub.close()
                for cluster in clusters:
                    await cluster.close()
    finally:
        await store.close()


async def _supervised(loop: Callable[[Scheduler], Awaitable[None]], scheduler: Scheduler) -> None:
    """Run a loop for ever; what it dies of is recorded, and it begins again."""
    while True:
        try:
            await loop(scheduler)
        except Exception:
            log.exception("%s died; it begins again in %s s", loop.__name__, RESTART_PAUSE_S)
            await asyncio.sleep(RESTART_PAUSE_S)


def _with_shares(settings: Settings, clusters: Sequence[ComputeCluster]) -> Settings:
    """Where nothing else is said, everybody's share is the whole of what there is.

    DRU then reads as the fraction of the cluster that a user holds.
    """
    if settings.default_shares:
        return settings
    hosts = {(offer.cluster, offer.host): offer.room for cluster in clusters for offer in cluster.capacity()}
    total = sum(hosts.values(), Resources())
    amounts = {"cpus": total.cpus, "mem": total.mem_mb, "gpus": total.gpus}
    return replace(settings, default_shares={name: a for name, a in amounts.items() if a > 0})
