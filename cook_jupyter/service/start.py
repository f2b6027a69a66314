"""From settings to a living scheduler: store, clusters and loops under one task group.

Lives here: `alive`. Not here: which store and clusters (`service.embedded`), HTTP (`api`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from cook_jupyter.clusters.base import ComputeCluster
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.clock import Clock
from cook_jupyter.service.config import Home, Settings
from cook_jupyter.service.cycles import kill_loop, match_loop, tick_loop
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.updates import Updates
from cook_jupyter.store.base import Store

log = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0


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
            open_there = open_instances.pop(cluster.name, [])
            launches = [scheduler.launch_of(spec, instance) for spec, instance in open_there]
            await cluster.start(updates, launches)
            await scheduler.repeat_kills()
            scheduler.wake.set()

        async with asyncio.TaskGroup() as tasks:
            starting = [tasks.create_task(start_cluster(cluster)) for cluster in clusters]
            loops = [
                tasks.create_task(_supervised(loop, scheduler)) for loop in (match_loop, tick_loop, kill_loop)
            ]
            try:
                yield scheduler
            finally:
                for task in (*starting, *loops):
                    task.cancel()
                scheduler.hub.close()
                for cluster in clusters:
                    await cluster.close()
    except ExceptionGroup as group:
        # One failure is told as itself: callers know the errors of ours, not the task group.
        raise (group.exceptions[0] if len(group.exceptions) == 1 else group) from group.exceptions[
            0
        ].__cause__
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
